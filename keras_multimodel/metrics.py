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


class _InRawUnits(keras.metrics.Metric):
    """A metric of numbers in raw units, from scaled ones.

    Args:
        name: name of the metric.
        mean: of the scaled numbers, one or one for each number of an example.
        scale: what they were divided by.
        logarithm: whether they are `sign(x) * log(1 + |x|)` of the raw ones.
        dtype: dtype of the result.
    """

    default_name = ""

    def __init__(
        self,
        name: str | None = None,
        mean: float | list[float] = 0.0,
        scale: float | list[float] = 1.0,
        logarithm: bool = False,
        dtype: str | None = None,
    ):
        super().__init__(name=name or self.default_name, dtype=dtype)
        self.mean, self.scale, self.logarithm = mean, scale, logarithm

    def raw(self, scaled: Tensor) -> Tensor:
        """Returns scaled numbers in raw units."""
        x = ops.cast(scaled, "float32") * ops.convert_to_tensor(self.scale, "float32")
        x = x + ops.convert_to_tensor(self.mean, "float32")
        # A prediction far off must not be infinite: one would make the mean of all infinite.
        return ops.sign(x) * ops.expm1(ops.minimum(ops.abs(x), 60.0)) if self.logarithm else x

    def known(self, y_true: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns targets in raw units, with some number in place of gaps, and their weights."""
        weights = position_weights(y_true, None, sample_weight)
        return self.raw(ops.where(ops.isnan(y_true), ops.zeros_like(y_true), y_true)), weights

    def get_config(self):
        own = {"mean": self.mean, "scale": self.scale, "logarithm": self.logarithm}
        return {"name": self.name, "dtype": self.dtype, **own}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class MeanAbsoluteError(_InRawUnits):
    """Computes the mean absolute error of numbers in raw units, over those that are known.

    Args:
        name: name of the metric, by default `mae`.
        mean: of the scaled numbers, one or one for each number of an example.
        scale: what they were divided by.
        logarithm: whether they are `sign(x) * log(1 + |x|)` of the raw ones.
        dtype: dtype of the result.

    Call arguments:
        y_true: scaled numbers `(batch, size)`; NaN is a gap.
        y_pred: predictions of the same shape.
        sample_weight: `(batch,)` or of the shape of `y_true`.
    """

    default_name = "mae"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.total = self.add_weight((), "zeros", name="total")
        self.count = self.add_weight((), "zeros", name="count")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None):
        true, weights = self.known(ops.convert_to_tensor(y_true), sample_weight)
        self.total.assign_add(ops.sum(ops.abs(self.raw(y_pred) - true) * weights))
        self.count.assign_add(ops.sum(weights))

    def result(self) -> Tensor:
        return ops.divide_no_nan(self.total, self.count)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class RSquared(_InRawUnits):
    """Computes R², the share of the variance that predictions explain, in raw units.

    For several numbers in an example it is the mean of theirs. A number that is the same in all
    examples has no variance, and counts as 0.

    Args:
        size: how many numbers an example has.
        name: name of the metric, by default `r2`.
        mean: of the scaled numbers, one or one for each number of an example.
        scale: what they were divided by.
        logarithm: whether they are `sign(x) * log(1 + |x|)` of the raw ones.
        dtype: dtype of the result.

    Call arguments:
        y_true: scaled numbers `(batch, size)`; NaN is a gap.
        y_pred: predictions of the same shape.
        sample_weight: `(batch,)` or of the shape of `y_true`.
    """

    default_name = "r2"

    def __init__(self, size: int = 1, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.size = positive_int("size", size)
        self.sums = self.add_weight((4, self.size), "zeros", name="sums")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None):
        true, weights = self.known(ops.convert_to_tensor(y_true), sample_weight)
        # From what a scaled 0 stands for: the square of a large mean would take all digits.
        origin = self.raw(ops.zeros_like(y_pred))
        error, true = self.raw(y_pred) - true, true - origin
        parts = (ops.ones_like(true), true, true * true, error * error)
        self.sums.assign_add(ops.stack([ops.sum(part * weights, axis=0) for part in parts]))

    def result(self) -> Tensor:
        count, total, squares, errors = ops.unstack(ops.convert_to_tensor(self.sums), axis=0)
        variance = squares - ops.divide_no_nan(total * total, count)
        explained = ops.where(variance > 0, 1.0 - ops.divide_no_nan(errors, variance), 0.0)
        return ops.mean(explained)

    def get_config(self):
        return {"size": self.size, **super().get_config()}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class LabelsF1(keras.metrics.Metric):
    """Computes F1 of labels over all labels of all examples together, where they are known.

    Args:
        name: name of the metric.
        dtype: dtype of the result.

    Call arguments:
        y_true: floats `(batch, num_labels)`, 1 or 0; NaN is a gap.
        y_pred: logits of the same shape; above 0 a label is predicted.
        sample_weight: `(batch,)` or of the shape of `y_true`.
    """

    def __init__(self, name: str = "f1", dtype: str | None = None):
        super().__init__(name=name, dtype=dtype)
        self.hits = self.add_weight((), "zeros", name="hits")
        self.count = self.add_weight((), "zeros", name="count")  # of labels and of predicted ones

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None):
        y_true = ops.convert_to_tensor(y_true)
        weights = position_weights(y_true, None, sample_weight)
        present = ops.cast(y_true == 1, "float32")
        predicted = ops.cast(ops.cast(y_pred, "float32") > 0, "float32")
        self.hits.assign_add(ops.sum(present * predicted * weights))
        self.count.assign_add(ops.sum((present + predicted) * weights))

    def result(self) -> Tensor:
        return ops.divide_no_nan(2.0 * self.hits, self.count)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}
