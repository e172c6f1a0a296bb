"""Top-k with one order of ties on every backend."""

import keras
from keras import ops


def stable_top_k(x, k: int):
    """Returns the `k` largest entries of the last axis of `x` and their int32 indices, the lowest index first among equals."""
    if keras.backend.backend() != "torch":
        return ops.top_k(x, k)
    import torch

    values, indices = torch.sort(x, dim=-1, descending=True, stable=True)
    return values[..., :k], indices[..., :k].to(torch.int32)
