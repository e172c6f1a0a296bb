import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from scipy.ndimage import correlate1d

from keras_multimodel.ops.depthwise_conv import depthwise_conv1d
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
