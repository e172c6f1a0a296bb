"""What a task reports by default: the measures of the paper's Table 2."""

import keras
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import positive_int
from keras_multimodel.losses import position_weights
from keras_multimodel.ops.cross_entropy import cross_entropy
from keras_multimodel.ops.replicas import replica_sum
from keras_multimodel.typing import Tensor


class _PositionMean(keras.metrics.Mean):
    """Averages `values(y_true, logits)`, which a subclass defines, over real positions."""

    default_name = ""
    direction = "up"

    def __init__(
        self, name: str | None = None, mask_id: int | None = None, dtype: str | None = None
    ):
        super().__init__(name=name or self.default_name, dtype=dtype)
        self.mask_id = mask_id
        _keras_compat.set_direction(self, self.direction)

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None):
        y_true = ops.convert_to_tensor(y_true)
        weights = position_weights(y_true, self.mask_id, sample_weight)
        values = self.values(y_true, ops.cast(y_pred, "float32"))
        # As vectors: Keras averages each row of a matrix first, padding included.
        super().update_state(ops.reshape(values, (-1,)), ops.reshape(weights, (-1,)))

    def result(self):
        # Within a step each replica has seen its own rows: the mean of their means, which Keras
        # shows at the end of a batch, counts a replica without rows as 0.
        total, count = replica_sum([ops.convert_to_tensor(v) for v in (self.total, self.count)])
        return ops.divide_no_nan(total, ops.cast(count, self.dtype))

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype, "mask_id": self.mask_id}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class LogPerplexity(_PositionMean):
    """Averages the negative log-probability of the targets, in nats, without label smoothing.

    Args:
        name: name of the metric, by default `log_perplexity`.
        mask_id: targets equal to it do not count; None if every target does.
        dtype: dtype of the result.

    Call arguments:
        y_true: integer labels `(batch,)` or ids `(batch, length)`.
        y_pred: logits with one more axis.
        sample_weight: `(batch,)` or of the shape of `y_true`.
    """

    default_name = "log_perplexity"
    direction = "down"

    def values(self, y_true: Tensor, logits: Tensor) -> Tensor:
        return cross_entropy(logits, y_true)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class TokenAccuracy(_PositionMean):
    """Computes the share of targets that have the highest score.

    Args:
        name: name of the metric, by default `accuracy`.
        mask_id: targets equal to it do not count; None if every target does.
        dtype: dtype of the result.

    Call arguments:
        y_true: integer labels `(batch,)` or ids `(batch, length)`.
        y_pred: logits with one more axis.
        sample_weight: `(batch,)` or of the shape of `y_true`.
    """

    default_name = "accuracy"

    def values(self, y_true: Tensor, logits: Tensor) -> Tensor:
        # Backends differ in the dtype of an index.
        best = ops.argmax(logits, axis=-1)
        return ops.cast(ops.equal(ops.cast(y_true, best.dtype), best), "float32")


@keras.saving.register_keras_serializable(package="keras_multimodel")
class TopKAccuracy(_PositionMean):
    """Computes the share of targets that are among the `k` highest scores.

    Args:
        k: how many scores count; all if there are fewer classes.
        name: name of the metric, by default `top_{k}_accuracy`.
        mask_id: targets equal to it do not count; None if every target does.
        dtype: dtype of the result.

    Call arguments:
        y_true: integer labels `(batch,)` or ids `(batch, length)`.
        y_pred: logits with one more axis.
        sample_weight: `(batch,)` or of the shape of `y_true`.
    """

    def __init__(
        self,
        k: int = 5,
        name: str | None = None,
        mask_id: int | None = None,
        dtype: str | None = None,
    ):
        super().__init__(name or f"top_{k}_accuracy", mask_id, dtype)
        self.k = positive_int("k", k)

    def values(self, y_true: Tensor, logits: Tensor) -> Tensor:
        best = ops.top_k(logits, min(self.k, logits.shape[-1]), sorted=False)[1]
        hits = ops.equal(ops.cast(y_true, best.dtype)[..., None], best)
        return ops.cast(ops.any(hits, axis=-1), "float32")

    def get_config(self):
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class StepMean(keras.metrics.Mean):
    """Averages a loss over steps, each of which counts once, however many examples it has.

    Keras weighs the loss of a step by the number of examples of one task, which may be none in a
    step that trains another.

    Call arguments:
        values: a scalar.
        sample_weight: number of examples, or None.
    """

    def update_state(self, values: Tensor, sample_weight: Tensor | None = None):
        if sample_weight is not None:
            # A constant would be counted once more at the end of a data set of unknown size,
            # where TensorFlow finds no batch, but runs what needs none.
            sample_weight = ops.cast(ops.greater_equal(sample_weight, 0), self.dtype)
        super().update_state(values, sample_weight)
