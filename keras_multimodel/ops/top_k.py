"""Top-k with one order of ties on every backend."""

import keras
from keras import ops


def stable_top_k(x, k: int):
    """Returns the `k` largest entries of the last axis, and their int32 indices.

    Among equals the lowest index comes first.
    """
    if 0 in x.shape:  # where gradients of top-k fail
        values = x[..., :k]
        return values, ops.zeros_like(values, dtype="int32")
    if keras.backend.backend() != "torch":
        return ops.top_k(x, k)
    import torch

    values, indices = torch.sort(x, dim=-1, descending=True, stable=True)
    return values[..., :k], indices[..., :k].to(torch.int32)
