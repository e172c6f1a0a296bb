"""The mixture of experts: routers, dispatch to the experts, balance losses, statistics.

May import `layers.layer_norm`, `layers.sublayers` and ops.
"""
