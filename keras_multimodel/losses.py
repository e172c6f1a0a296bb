"""What a task minimizes by default."""

import math

import keras
from keras import ops

from keras_multimodel.argument_checks import fraction, positive
from keras_multimodel.ops.cross_entropy import cross_entropy
from keras_multimodel.ops.replicas import replica_sum
from keras_multimodel.typing import Tensor


def position_weights(
    y_true: Tensor, mask_id: int | None, sample_weight: Tensor | None = None
) -> Tensor:
    """Weighs targets: 0 at `mask_id` and at gaps, else 1 or the sample weight.

    Args:
        y_true: integer ids `(batch, ...)`, where one below 0 is a gap; or floats, where NaN is one.
        mask_id: the id that does not count, or None.
        sample_weight: `(batch,)` or of the shape of `y_true`, or None.

    Returns:
        float32 weights of the shape of `y_true`.
    """
    is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(y_true.dtype))
    counts = ops.logical_not(ops.isnan(y_true)) if is_float else ops.greater_equal(y_true, 0)
    if mask_id is not None:
        counts = ops.logical_and(counts, ops.not_equal(y_true, mask_id))
    weights = ops.cast(counts, "float32")
    if sample_weight is None:
        return weights
    given: Tensor = ops.cast(sample_weight, "float32")
    # A weight per example counts for each of its positions.
    while len(given.shape) < len(weights.shape):
        given = given[..., None]
    return weights * given


class _PositionLoss(keras.losses.Loss):
    """Averages `call(y_true, y_pred)`, which a subclass defines, over the real targets of a batch.

    The average is over the global batch: it does not depend on how a strategy splits it.
    """

    mask_id: int | None = None

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        y_true = ops.convert_to_tensor(y_true)
        weights = position_weights(y_true, self.mask_id, sample_weight)
        # This replica's share of the global mean: Keras sums the gradients of the replicas.
        total = replica_sum(ops.sum(weights))
        return ops.divide_no_nan(ops.sum(self.call(y_true, y_pred) * weights), total)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class LabelSmoothedCrossentropy(_PositionLoss):
    """Averages the cross-entropy against smoothed labels over the real positions of a batch.

    The soft target is `1 - s` on the label and `s / (V - 1)` on the other `V - 1` ids; with a
    single id nothing is smoothed, and the loss is 0. The entropy of the target is subtracted, so
    that a perfect prediction costs 0. Padding takes no part in the average, which is over the
    global batch: it does not depend on how a strategy splits the batch among replicas. In nats.

    Args:
        label_smoothing: `s`.
        mask_id: targets equal to it do not count; None if every target does.
        name: name of the loss.

    Call arguments:
        y_true: integer labels `(batch,)` or ids `(batch, length)`.
        y_pred: logits, with one more axis of size `V`.
        sample_weight: `(batch,)` or of the shape of `y_true`.

    Returns:
        A scalar; 0 if nothing counts.

    Raises:
        ValueError: `label_smoothing` is outside [0, 1).

    Example:
        >>> loss = kmm.losses.LabelSmoothedCrossentropy(label_smoothing=0.0, mask_id=0)
        >>> float(loss(np.array([[1, 0]]), np.zeros((1, 2, 4))))  # log(4), over one real position
        1.386294...

    Reference:
        Szegedy et al. 2016, arXiv 1512.00567, section 7; the form of the authors' code.
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        mask_id: int | None = None,
        name: str = "label_smoothed_crossentropy",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = fraction("label_smoothing", label_smoothing)
        self.mask_id = mask_id

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the loss of every position, of the shape of `y_true`."""
        logits = ops.cast(y_pred, "float32")
        size = logits.shape[-1]
        smoothing = self.label_smoothing if size > 1 else 0.0
        loss = cross_entropy(logits, y_true, smoothing)
        if not smoothing:
            return loss
        high = 1.0 - smoothing
        # The entropy of the target: high * log(high) + (V - 1) * low * log(low).
        return loss + high * math.log(high) + smoothing * math.log(smoothing / (size - 1))

    def get_config(self):
        own = {"label_smoothing": self.label_smoothing, "mask_id": self.mask_id}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Huber(_PositionLoss):
    """Averages the Huber loss of numbers over those that are known; NaN is a gap.

    It is `e * e / 2` for errors up to `delta`, and grows linearly beyond: outliers do not rule it.

    Args:
        delta: where it becomes linear, in the units of the targets.
        name: name of the loss.

    Call arguments:
        y_true: floats `(batch, size)`.
        y_pred: predictions of the same shape.
        sample_weight: `(batch,)` or of the shape of `y_true`.

    Returns:
        A scalar; 0 if nothing is known.

    Raises:
        ValueError: `delta` is not positive.

    Example:
        >>> loss = kmm.losses.Huber()
        >>> float(loss(np.array([[3.0], [np.nan]]), np.zeros((2, 1))))  # 3 - 1 / 2, of one number
        2.5

    Reference:
        Huber 1964, Robust estimation of a location parameter.
    """

    def __init__(self, delta: float = 1.0, name: str = "huber", **kwargs):
        super().__init__(name=name, **kwargs)
        self.delta = positive("delta", delta)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the loss of every number, 0 at gaps."""
        error = ops.abs(ops.cast(y_pred, "float32") - _known(y_true))
        inside = ops.minimum(error, self.delta)
        return inside * (error - 0.5 * inside)

    def get_config(self):
        return {**super().get_config(), "delta": self.delta}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class LabelsCrossentropy(_PositionLoss):
    """Averages the binary cross-entropy of several labels over those that are known, in nats.

    Args:
        name: name of the loss.

    Call arguments:
        y_true: floats `(batch, num_labels)`: 1 for a label that is present, 0 for one that is not,
            NaN for a gap.
        y_pred: logits of the same shape.
        sample_weight: `(batch,)` or of the shape of `y_true`.

    Returns:
        A scalar; 0 if nothing is known.

    Example:
        >>> loss = kmm.losses.LabelsCrossentropy()
        >>> float(loss(np.array([[1.0, np.nan]]), np.zeros((1, 2))))  # log(2), of one label
        0.6931...
    """

    def __init__(self, name: str = "labels_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the loss of every label; what it is at gaps has no meaning."""
        logits = ops.cast(y_pred, "float32")
        return ops.softplus(logits) - logits * _known(y_true)


def _known(y_true):
    """Returns targets with 0 in place of gaps: a NaN would pass through a weight of 0."""
    y_true = ops.cast(y_true, "float32")
    return ops.where(ops.isnan(y_true), 0.0, y_true)
