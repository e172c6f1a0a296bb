"""Cross-entropy against integer labels, with the fewest passes over the logits."""

import keras
from keras import ops

from keras_multimodel.ops.compiled import under_xla
from keras_multimodel.ops.gradients import custom_gradient
from keras_multimodel.typing import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Computes `-sum_j q_j log softmax(logits)_j` for each label, `q` the smoothed label.

    `q` is `1 - s` at the label and `s / (V - 1)` elsewhere. Logits are most of a step's memory: 16
    sentences of 64 ids and a vocabulary of 8,192 are 34 MB, so passes over them count. This takes
    three, and two in the gradient, which is written out. With the product that makes the logits, a
    training step of them takes two thirds of what it takes through
    `ops.sparse_categorical_crossentropy` and `ops.logsumexp` (TensorFlow, 2 CPU cores: 47 instead
    of 71 ms). A loss and a metric that both call this share the passes: compilers see equal
    operations.

    Args:
        logits: float32 `(..., V)`.
        labels: integers `(...)` from 0 to V - 1. Below 0, what is returned has no meaning.
        label_smoothing: `s`; must be 0 if V is 1.

    Returns:
        float32 `(...)`, in nats.
    """
    size = logits.shape[-1]
    rows = ops.reshape(logits, (-1, size))
    # A gap is below 0: TensorFlow writes to no such column in the gradient.
    column = ops.maximum(ops.cast(ops.reshape(labels, (-1, 1)), "int32"), 0)
    low = label_smoothing / max(1, size - 1)
    high = 1.0 - label_smoothing

    def forward(z):
        # An initial value, or Keras refuses logits without rows.
        greatest = ops.max(z, axis=-1, keepdims=True, initial=float("-inf"))
        powers = ops.exp(z - greatest)
        total = ops.sum(powers, axis=-1, keepdims=True)
        log_total = greatest + ops.log(total)
        at_label = ops.take_along_axis(z, column, axis=1)
        loss = (high - low) * (log_total - at_label)
        if low:
            # -sum_j log p_j = V * logsumexp(z) - sum_j z_j: no one-hot label is needed.
            loss = loss + low * (size * log_total - ops.sum(z, axis=-1, keepdims=True))
        return loss, powers, total

    def with_gradient(z):
        loss, powers, total = forward(z)

        def gradient(upstream):
            scaled = upstream / total
            dz = powers * scaled - low * upstream if low else powers * scaled
            own = ops.take_along_axis(powers, column, axis=1) * scaled - high * upstream
            if under_xla():  # which has a slow loop for scatters, and fuses this
                return ops.where(ops.arange(size) == column, own, dz)
            # Written over instead of added, which Keras has no function for.
            places = ops.concatenate([ops.arange(ops.shape(z)[0])[:, None], column], axis=1)
            return ops.scatter_update(dz, places, own[:, 0])

        return loss, gradient

    if keras.backend.backend() == "torch":  # whose own gradient is as fast
        loss = forward(rows)[0]
    else:
        loss = custom_gradient(with_gradient)(rows)
    return ops.reshape(loss, ops.shape(labels))
