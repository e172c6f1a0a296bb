"""Routers: which experts each token takes.

May import `layers.moe.balance_losses`, `layers.sublayers` and ops.
"""
