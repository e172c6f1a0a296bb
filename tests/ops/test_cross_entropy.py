import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.ops.cross_entropy import cross_entropy


def reference(logits, labels, smoothing):
    """Values and the gradient of their sum, in float64, from the definition."""
    z = logits.astype("float64")
    size = z.shape[-1]
    log_p = z - z.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    q = np.full(z.shape, smoothing / max(1, size - 1))
    np.put_along_axis(q, labels[..., None], 1.0 - smoothing, axis=-1)
    return -(q * log_p).sum(-1), np.exp(log_p) - q


def value_and_gradient(logits, labels, smoothing, upstream, jit=False):
    import tensorflow as tf

    @tf.function(jit_compile=jit)
    def run(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = cross_entropy(z, labels, smoothing)
            total = tf.reduce_sum(loss * upstream)
        return loss, tape.gradient(total, z)

    return [x.numpy() for x in run(tf.constant(logits))]


tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="gradients are taken with TensorFlow's tape"
)


@tensorflow_only
@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=3),
    size=st.integers(1, 9),
    smoothing=st.sampled_from([0.0, 0.1, 0.7]),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_equals_the_definition(shape, size, smoothing, scale, seed):
    draw = np.random.default_rng(seed)
    logits = (scale * draw.normal(size=(*shape, size))).astype("float32")
    labels = draw.integers(0, size, shape).astype("int32")
    upstream = draw.normal(size=shape).astype("float32")
    smoothing = smoothing if size > 1 else 0.0
    loss, gradient = value_and_gradient(logits, labels, smoothing, upstream)
    values, slopes = reference(logits, labels, smoothing)
    np.testing.assert_allclose(loss, values, rtol=1e-5, atol=1e-5 * max(1.0, scale))
    np.testing.assert_allclose(gradient, slopes * upstream[..., None], atol=1e-5)


@tensorflow_only
def test_is_the_same_under_xla():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 5, 70)).astype("float32")
    labels = draw.integers(0, 70, (3, 5)).astype("int32")
    upstream = draw.normal(size=(3, 5)).astype("float32")
    loss, gradient = value_and_gradient(logits, labels, 0.1, upstream, jit=True)
    values, slopes = reference(logits, labels, 0.1)
    np.testing.assert_allclose(loss, values, rtol=1e-5)
    np.testing.assert_allclose(gradient, slopes * upstream[..., None], atol=1e-6)


def test_equals_that_of_keras_where_nothing_is_smoothed():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 5, 7)).astype("float32")
    labels = draw.integers(0, 7, (3, 5))
    expected = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    found = cross_entropy(ops.convert_to_tensor(logits), ops.convert_to_tensor(labels))
    np.testing.assert_allclose(
        ops.convert_to_numpy(found), ops.convert_to_numpy(expected), rtol=1e-5
    )
