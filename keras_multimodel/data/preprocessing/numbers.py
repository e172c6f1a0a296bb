"""Numbers and series of numbers, scaled to about 0 and 1."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_multimodel.argument_checks import optional_positive_int, positive, positive_int
from keras_multimodel.data.encoding.bad_examples import BadExampleError, require
from keras_multimodel.data.preprocessing.graph_forms import MappedForm
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor
from keras_multimodel.typing import Tensor


class _Scaler(Preprocessor):
    """Subtracts a mean and divides by a scale, both of each number, after a logarithm if asked."""

    def __init__(self, argument, size, mean, scale, logarithm):
        self.mean = [_finite("mean", x) for x in _one_for_each(argument, "mean", mean, size)]
        scales = _one_for_each(argument, "scale", scale, size)
        self.scale = [float(positive("scale", x)) for x in scales]
        self.logarithm = bool(logarithm)

    def _numbers(self, raw, shape):
        """Returns raw numbers as a float64 tensor of a shape, or refuses them."""
        try:
            x = tf.convert_to_tensor(raw)
        except (TypeError, ValueError) as error:
            raise BadExampleError("not a number", str(error)) from error
        if x.dtype == tf.string or x.dtype == tf.bool or x.dtype.is_complex:
            expected = "`raw` must be numbers"
            received = f"raw={raw!r}, dtype={x.dtype.name}"
            raise BadExampleError("not a number", f"{expected}. Received: {received}")
        x = tf.cast(x, tf.float64)
        if x.shape.rank == len(shape) - 1 and shape[-1] == 1:
            x = x[..., None]  # a plain number, or a series of plain numbers
        if x.shape.rank is not None and not x.shape.is_compatible_with(shape):
            expected = f"`raw` must have the shape {tuple(shape)}"
            raise BadExampleError("wrong shape", f"{expected}. Received: shape={tuple(x.shape)}")
        finite = tf.reduce_all(~tf.math.is_inf(x))
        message = "`raw` must be finite, or NaN for a gap. Received: one that is infinite"
        return tf.ensure_shape(require(x, finite, "not finite", lambda: message), shape)

    def _scaled(self, x):
        if self.logarithm:
            x = tf.sign(x) * tf.math.log1p(tf.abs(x))
        return tf.cast((x - self.mean) / self.scale, tf.float32)

    def raw_units(self) -> dict[str, Any]:
        """Returns the arguments of a metric that measures in raw units."""
        return {"mean": self.mean, "scale": self.scale, "logarithm": self.logarithm}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class NumberPreprocessor(_Scaler):
    """Turns one or several raw numbers into float32 ones of mean 0 and deviation 1, and back.

    NaN stays NaN: it is a gap. `NumberPreprocessor.fit` finds mean and scale in training data.

    Args:
        size: how many numbers an example has.
        mean: subtracted; one number, or one for each.
        scale: what is divided by then; one number, or one for each.
        logarithm: whether to take `sign(x) * log(1 + |x|)` first, for prices, counts and other
            numbers that differ by factors.

    Call arguments:
        raw: a number if `size` is 1, else a list or an array of `size` numbers.

    Returns:
        float32 `(size,)`.

    Raises:
        ValueError: an argument is out of range, or `raw` is no number, infinite, or not `size`
            numbers. Inside `tf.data` an infinite number raises a `tf.errors.OpError`.

    Example:

    ```python
    price = kmm.data.NumberPreprocessor.fit([9.0, 19.0, 1999.0, np.nan], logarithm=True)
    price.decode(price(19.0))  # 19.0
    ```
    """

    def __init__(
        self,
        size: int = 1,
        mean: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
        logarithm: bool = False,
    ):
        self.size = positive_int("size", size)
        super().__init__("size", self.size, mean, scale, logarithm)

    @classmethod
    def fit(cls, values: Any, logarithm: bool = False) -> "NumberPreprocessor":
        """Returns a preprocessor with the mean and the deviation of given numbers.

        Args:
            values: raw numbers `(examples,)` or `(examples, size)`; NaN is left out.
            logarithm: as in the constructor.

        Raises:
            ValueError: `values` are no finite numbers, or none is known.
        """
        array = _array("values", values)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            expected = "`values` must have the shape (examples,) or (examples, size)"
            raise ValueError(f"{expected}. Received: shape={array.shape}")
        return cls(array.shape[1], *_fitted(array, logarithm), logarithm)

    def __call__(self, raw: Any) -> tf.Tensor:
        return self._scaled(self._numbers(raw, [self.size]))

    def decode(self, prediction: Tensor, inputs: Any = None) -> Any:
        """Returns a float, or float64 `(size,)` for several numbers, in raw units."""
        x = np.asarray(prediction, "float64")
        if x.shape != (self.size,):
            expected = f"`prediction` must have {self.size} numbers"
            raise ValueError(f"{expected}. Received: prediction={prediction!r}")
        x = x * self.scale + self.mean
        if self.logarithm:
            x = np.sign(x) * np.expm1(np.minimum(np.abs(x), 700.0))
        return x if self.size > 1 else float(x[0])

    def graph_form(self) -> MappedForm:
        def write(x):
            x = tf.cast(x, tf.float64) * self.scale + self.mean
            if self.logarithm:
                x = tf.sign(x) * tf.math.expm1(tf.minimum(tf.abs(x), 700.0))
            return x if self.size > 1 else x[:, 0]

        shape = (self.size,)
        raw = tf.TensorSpec(shape if self.size > 1 else (), tf.float64)
        return MappedForm(self, raw, shape, write=write)

    def get_config(self) -> dict:
        return {"size": self.size, **self.raw_units()}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SeriesPreprocessor(_Scaler):
    """Turns a series of measurements into scaled values beside a mask of what is known.

    NaN is a gap, in any channel of any step. `SeriesPreprocessor.fit` finds mean and scale.

    Args:
        channels: values of a step.
        mean: subtracted; one number, or one for each channel.
        scale: what is divided by then; one number, or one for each channel.
        logarithm: as in `NumberPreprocessor`.
        max_length: most steps; later ones are cut off. None for no limit.

    Call arguments:
        raw: numbers `(steps, channels)`, or `(steps,)` for one channel.

    Returns:
        float32 `(steps, 2 * channels)`: values, 0 at gaps; then 1 for known values and 0 at gaps.

    Raises:
        ValueError: an argument is out of range, or `raw` is of another shape or infinite. `strict`,
            which `kmm.data.encode` uses, also refuses a series without any known value.

    Example:

    >>> series = kmm.data.SeriesPreprocessor.fit([[1.0, 3.0], [2.0, np.nan, 2.0]])
    >>> series([2.0, np.nan]).numpy()  # scaled values beside what is known
    array([[0., 1.],
           [0., 0.]], dtype=float32)
    """

    def __init__(
        self,
        channels: int = 1,
        mean: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
        logarithm: bool = False,
        max_length: int | None = None,
    ):
        self.channels = positive_int("channels", channels)
        self.max_length = optional_positive_int("max_length", max_length)
        super().__init__("channels", self.channels, mean, scale, logarithm)

    @classmethod
    def fit(
        cls, series: Iterable[Any], logarithm: bool = False, max_length: int | None = None
    ) -> "SeriesPreprocessor":
        """Returns a preprocessor with the mean and the deviation of each channel.

        Args:
            series: raw series, as in a call.
            logarithm: as in the constructor.
            max_length: as in the constructor.

        Raises:
            ValueError: there is no series, a value is infinite, or nothing is known of a channel.
        """
        arrays = [_array("series", one) for one in series]
        steps = [array[:, None] if array.ndim == 1 else array for array in arrays]
        if not steps or len({array.shape[1:] for array in steps}) > 1 or steps[0].ndim != 2:
            expected = "`series` must be arrays (steps, channels) of as many channels each"
            raise ValueError(f"{expected}. Received: shapes {[a.shape for a in arrays][:4]}")
        array = np.concatenate(steps)
        return cls(array.shape[1], *_fitted(array, logarithm), logarithm, max_length)

    def __call__(self, raw: Any) -> tf.Tensor:
        x = self._numbers(raw, [None, self.channels])[: self.max_length]
        known = ~tf.math.is_nan(x)
        values = tf.where(known, self._scaled(x), 0.0)
        return tf.concat([values, tf.cast(known, tf.float32)], axis=1)

    def strict(self, raw: Any) -> tf.Tensor:
        encoded = self(raw)
        some = tf.reduce_any(encoded[:, self.channels :] != 0)
        message = "`raw` must have a value that is known. Received: none"
        return require(encoded, some, "empty", lambda: message)

    def graph_form(self) -> MappedForm:
        raw = tf.TensorSpec((None, self.channels), tf.float64)
        return MappedForm(self, raw, (None, 2 * self.channels))

    def get_config(self) -> dict:
        return {"channels": self.channels, **self.raw_units(), "max_length": self.max_length}


def _one_for_each(size_name, name, value, size):
    values = np.broadcast_to(np.asarray(value, "float64"), size) if np.ndim(value) == 0 else value
    if len(values) != size:
        raise ValueError(
            f"`{name}` must be one number, or one for each of {size_name}={size}. "
            f"Received: {name}={value!r}"
        )
    return values


def _finite(name, value):
    if not np.isfinite(value):
        raise ValueError(f"`{name}` must be finite. Received: {name}={value!r}")
    return float(value)


def _array(argument, values):
    try:
        array = np.asarray(values, "float64")
    except (TypeError, ValueError) as error:
        expected = f"`{argument}` must hold numbers"
        raise ValueError(f"{expected}. Received: {error}") from error
    if np.isinf(array).any():
        expected = f"`{argument}` must be finite numbers, or NaN for gaps"
        raise ValueError(f"{expected}. Received: one that is infinite")
    return array


def _fitted(array, logarithm):
    """Returns mean and deviation of each column; a constant one has a deviation of 1."""
    if np.isnan(array).all(axis=0).any():
        raise ValueError(
            f"`values` must have a number that is known in each place. Received: {array[:3]}"
        )
    if logarithm:
        array = np.sign(array) * np.log1p(np.abs(array))
    deviation = np.nanstd(array, axis=0)
    return np.nanmean(array, axis=0).tolist(), np.where(deviation > 0, deviation, 1.0).tolist()
