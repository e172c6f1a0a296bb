import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.ops.argmax import argmax
from keras_multimodel.ops.extremes import row_max, row_min


def compiled(function):
    """Returns the function as XLA compiles it, on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


@pytest.mark.parametrize("compile", [lambda function: function, compiled], ids=["plain", "xla"])
@settings(max_examples=8)
@given(rows=st.integers(1, 3), size=st.integers(1, 40), data=st.data())
def test_equal_numpy(compile, rows, size, data):
    seed = data.draw(st.integers(0, 1000))
    x = np.random.default_rng(seed).integers(-3, 4, (rows, size)).astype("float32")
    x[x == -3] = -np.inf  # equal entries, and some that no constraint allows
    x[:, data.draw(st.integers(0, size - 1))] = 1.0
    for function, expected in (
        (row_max, x.max(axis=-1, keepdims=True)),
        (row_min, x.min(axis=-1, keepdims=True)),
        (argmax, x.argmax(axis=-1)),
    ):
        y = ops.convert_to_numpy(compile(function)(ops.convert_to_tensor(x)))
        np.testing.assert_array_equal(y, expected)
