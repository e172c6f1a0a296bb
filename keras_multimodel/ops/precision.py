"""The precision of sums."""

import keras
from keras import ops


def at_least_float32(x):
    """Returns a tensor in float32, or in float64 if that is what it is."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == "float64" else ops.cast(x, "float32")
