"""Modality nets: one kind of data to the representation of the body, and back.

May import `layers.layer_norm`, `layers.sublayers` and ops.
"""
