import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.ops.numerics import layer_norm, stable_top_k
from tests import references
from tests.layers.modalities import conv_res_weights as golden


@settings(deadline=None, max_examples=15)
@given(
    rows=st.integers(1, 6),
    channels=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    epsilon=st.sampled_from([1e-6, 1e-3]),
)
def test_equals_float64(rows, channels, scale, epsilon):
    rng = np.random.default_rng(rows)
    x = (rng.normal(size=(rows, channels)) * scale).astype("float32")
    gamma, beta = rng.normal(size=(2, channels)).astype("float32")
    y = ops.convert_to_numpy(layer_norm(x, gamma, beta, epsilon))
    expected = references.layer_norm(x.astype("float64"), gamma, beta, epsilon)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("constant", [0.0, 3.0, -1e4])
def test_a_constant_row_becomes_the_offset(constant):
    x = np.full((2, 8), constant, "float32")
    y = ops.convert_to_numpy(layer_norm(x, np.ones(8), np.arange(8), 1e-6))
    np.testing.assert_allclose(y, np.tile(np.arange(8), (2, 1)), atol=1e-5)


def test_keeps_the_dtype():
    x = ops.cast(np.ones((2, 8)), "bfloat16")
    y = layer_norm(x, np.ones(8), np.zeros(8), 1e-6)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.GradientTape")
def test_the_written_gradient_is_that_of_the_authors_code():
    import tensorflow as tf

    file = golden.load("iv_layer_norm")
    x = tf.constant(file["in/x"].reshape(-1, 16))
    scale, offset = (file[f"var/ln/layer_norm_{name}"] for name in ("scale", "bias"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer_norm(x, scale, offset, 1e-6) ** 2)
    expected = file["out/dx_of_sum_sq"].reshape(-1, 16)
    assert golden.relative_error(tape.gradient(loss, x), expected) < 1e-4


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.GradientTape")
@settings(deadline=None, max_examples=5)
@given(rows=st.integers(1, 5), channels=st.integers(2, 9))
def test_the_written_gradient_is_that_of_automatic_differentiation(rows, channels):
    import tensorflow as tf

    rng = np.random.default_rng(channels)
    x, dy = (tf.constant(rng.normal(size=(rows, channels)).astype("float32")) for _ in "xy")
    scale, offset = (tf.constant(rng.normal(size=channels).astype("float32")) for _ in "so")

    def plain(x, scale, offset):
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-3) * scale + offset

    def written(x, scale, offset):
        return layer_norm(x, scale, offset, 1e-3)

    gradients = []
    for function in (plain, written):
        with tf.GradientTape() as tape:
            tape.watch((x, scale, offset))
            y = function(x, scale, offset)
        gradients.append(tape.gradient(y, (x, scale, offset), output_gradients=dy))
    for expected, received in zip(*gradients):
        np.testing.assert_allclose(received, expected, atol=1e-4)


def test_the_lowest_index_wins_ties():
    values, indices = stable_top_k(ops.convert_to_tensor([[1.0, 3.0, 3.0, 1.0, 3.0]]), 4)
    np.testing.assert_array_equal(ops.convert_to_numpy(values), [[3.0, 3.0, 3.0, 1.0]])
    np.testing.assert_array_equal(ops.convert_to_numpy(indices), [[1, 2, 4, 0]])


@pytest.mark.parametrize("shape, k", [((0, 4), 2), ((2, 3, 0), 0)])
def test_of_nothing_there_is_nothing(shape, k):
    values, indices = stable_top_k(ops.zeros(shape), k)
    assert tuple(values.shape) == tuple(indices.shape) == (*shape[:-1], k)
