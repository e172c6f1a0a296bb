"""Attention of a sequence to a sequence. For one position of a loop, see `compiled.py`."""

import keras
from keras import ops

from keras_multimodel.ops.compiled import jax_on_accelerator, under_xla
from keras_multimodel.ops.gradients import custom_gradient
from keras_multimodel.ops.numerics import at_least_float32
from keras_multimodel.typing import Tensor


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Computes `softmax(queries keys^T / sqrt(H)) values` of every head, in float32 or more inside.

    Axes: B batch, T targets, S sources, N heads, H channels of a head.

    On CPUs the heads are brought in front by transpositions, and hidden positions get a large
    negative number added. `ops.dot_product_attention` has einsums and selects on TensorFlow, where
    an `AttentionBlock` takes 1.2 times as long with it, and on JAX a gradient of the softmax with
    which this takes 1.6 times as long (2 cores). On accelerators JAX and torch have kernels for it.

    Args:
        queries: `(B, T, N, H)`.
        keys: `(B, S, N, H)`.
        values: `(B, S, N, H)`.
        mask: boolean `(B, S)`, False at positions that no query sees. A row that hides all of them
            attends to all evenly.
        causal: whether query `t` sees positions up to `t` only.

    Returns:
        `(B, T, N, H)`.
    """
    if keras.backend.backend() == "torch" or jax_on_accelerator():
        mask = None if mask is None else mask[:, None, None, :]
        return ops.dot_product_attention(queries, keys, values, mask=mask, is_causal=causal)
    weights = ops.cast(attention_weights(queries, keys, mask, causal), values.dtype)
    found = ops.matmul(weights, ops.transpose(values, (0, 2, 1, 3)))
    return ops.transpose(found, (0, 2, 1, 3))


def attention_weights(
    queries: Tensor, keys: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Computes `softmax(queries keys^T / sqrt(H))` of every head.

    Args:
        queries: `(B, T, N, H)`.
        keys: `(B, S, N, H)`.
        mask: see `attention`.
        causal: see `attention`.

    Returns:
        `(B, N, T, S)`, float32 or more. Every row sums to 1, and hidden positions have exactly 0
        where any is visible.
    """
    scaled = queries * queries.shape[-1] ** -0.5
    queries, keys = (ops.transpose(x, (0, 2, 1, 3)) for x in (scaled, keys))
    scores = at_least_float32(ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))))
    visible = None if mask is None else mask[:, None, None, :]
    if causal:
        t, s = ops.arange(ops.shape(scores)[2]), ops.arange(ops.shape(scores)[3])
        earlier = t[:, None] >= s
        visible = earlier if visible is None else ops.logical_and(visible, earlier)
    if visible is not None:
        # So large that the score is lost in it, and finite, so that not all weights can be NaN.
        scores = scores + ops.where(visible, 0.0, ops.cast(-1e30, scores.dtype))
    return _softmax(scores)


def _softmax(scores):
    """Returns the softmax of the last axis, for XLA with its gradient in closed form."""
    if scores.shape[-1] == 1:
        return ops.ones_like(scores)  # Keras warns of a softmax of one
    if not under_xla():
        return ops.softmax(scores, axis=-1)

    @custom_gradient
    def softmax(scores):
        # An initial value, or Keras refuses scores of no position.
        greatest = ops.max(scores, axis=-1, keepdims=True, initial=float("-inf"))
        powers = ops.exp(scores - greatest)
        weights = powers / ops.sum(powers, axis=-1, keepdims=True)

        def gradient(upstream):
            along = ops.sum(weights * upstream, axis=-1, keepdims=True)
            return weights * (upstream - along)

        return weights, gradient

    return softmax(scores)
