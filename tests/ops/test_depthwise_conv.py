import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from scipy.ndimage import correlate1d

from keras_multimodel.ops.depthwise_conv import depthwise_conv1d, shifted_products
from tests import references


def test_by_hand():
    # One channel, kernel (1, 10), positions two apart, one zero in front and one behind:
    # 0 1 2 3 0 -> 0 + 10 * 2, 1 + 10 * 3, 2 + 10 * 0.
    x = np.array([1.0, 2.0, 3.0], "float32").reshape(1, 3, 1)
    kernel = np.array([1.0, 10.0], "float32").reshape(2, 1, 1, 1)
    y = ops.convert_to_numpy(depthwise_conv1d(x, kernel, 2, 1, 1))
    np.testing.assert_allclose(y.ravel(), [20.0, 31.0, 2.0])


@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 12),
    channels=st.integers(1, 5),
    size=st.integers(1, 6),
    dilation_rate=st.integers(1, 4),
    front=st.integers(0, 4),
)
def test_equals_the_loop(batch, length, channels, size, dilation_rate, front):
    rng = np.random.default_rng(length * 7 + size)
    x = rng.normal(size=(batch, length, channels)).astype("float32")
    kernel = rng.normal(size=(size, 1, channels, 1)).astype("float32")
    back = (size - 1) * dilation_rate  # so that at least one output is left
    y = ops.convert_to_numpy(depthwise_conv1d(x, kernel, dilation_rate, front, back))
    expected = references.depthwise_conv1d(x, kernel, dilation_rate, front, back)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_equals_scipy(size):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, 9, 3)).astype("float32")
    kernel = rng.normal(size=(size, 1, 3, 1)).astype("float32")
    y = ops.convert_to_numpy(depthwise_conv1d(x, kernel, 1, size // 2, size // 2))
    for c in range(3):
        expected = correlate1d(x[..., c], kernel[:, 0, c, 0], axis=1, mode="constant")
        np.testing.assert_allclose(y[..., c], expected, atol=1e-5)


def compiled(function):
    """The function as XLA compiles it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    import jax

    return jax.jit(function)


def with_gradients(function, x, kernel, dy):
    """The output, and the gradients of both arguments for an upstream gradient `dy`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = function(x, kernel)
        return y, *tape.gradient(y, [x, kernel], dy)
    import jax

    y, pull = jax.vjp(function, x, kernel)
    return y, *pull(dy)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="XLA does not compile torch")
@pytest.mark.parametrize(
    ("sizes", "kernel_sizes", "dilation_rate", "margins"),
    [
        ((9,), (15,), 1, [(14, 0)]),
        ((20,), (4,), 3, [(5, 4)]),
        ((7,), (3,), 2, [(0, 0)]),
        ((6, 5), (3, 2), 1, [(1, 1), (0, 1)]),
        ((6, 5), (2, 3), 2, [(4, 0), (2, 3)]),
    ],
)
def test_xla_gives_the_sum_by_hand_and_its_gradients(sizes, kernel_sizes, dilation_rate, margins):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *sizes, 3)).astype("float32")
    kernel = rng.normal(size=(*kernel_sizes, 3)).astype("float32")
    pads = [(0, 0), *margins, (0, 0)]
    padded = np.pad(x, pads)
    reach = [(size - 1) * dilation_rate for size in kernel_sizes]
    out = [n - far for n, far in zip(padded.shape[1:-1], reach)]
    dy = rng.normal(size=(2, *out, 3)).astype("float32")
    y, d_padded, d_kernel = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(kernel)
    for place in np.ndindex(*kernel_sizes):
        window = tuple(slice(i * dilation_rate, i * dilation_rate + n) for i, n in zip(place, out))
        window = (slice(None), *window)
        y += padded[window] * kernel[place]
        d_padded[window] += dy * kernel[place]
        d_kernel[place] = (padded[window] * dy).sum(axis=tuple(range(dy.ndim - 1)))
    inside = tuple(slice(a, padded.shape[i] - b) for i, (a, b) in enumerate(pads))

    def run(x, kernel, dy):
        convolve = lambda x, k: shifted_products(x, k, dilation_rate, margins)  # noqa: E731
        return with_gradients(convolve, x, kernel, dy)

    found = compiled(run)(*map(ops.convert_to_tensor, (x, kernel, dy)))
    for got, expected in zip(found, (y, d_padded[inside], d_kernel)):
        np.testing.assert_allclose(ops.convert_to_numpy(got), expected, atol=2e-5)
