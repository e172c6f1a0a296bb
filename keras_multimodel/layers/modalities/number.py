"""Numbers in, and out."""

from typing import Any

import keras
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.modalities.vector import VectorNet
from keras_multimodel.losses import Huber
from keras_multimodel.metrics import MeanAbsoluteError, RSquared
from keras_multimodel.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class NumberModality(VectorNet):
    """Reads one or several numbers, each as a position of its own, and predicts them.

    Number `i` becomes `x_i * kernel_i + bias_i`. NaN is a gap: as an input its position is padding,
    as a target it counts in no loss. The numbers should be around 0 and of size 1, which
    `kmm.data.NumberPreprocessor` makes them; metrics and `generate` are in raw units then.

    Args:
        hidden_dim: width of the body's representation.
        size: how many numbers an example has.
        preprocessor: scales raw numbers, and predictions back; see `ModalityNet`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: numbers `(batch, size)`; with `reverse=True` the body's output `(batch, length,
            hidden_dim)`.
        mask: boolean `(batch, length)`, True where the body's output is real.
        reverse: whether to predict numbers instead of reading them.

    Returns:
        `(batch, size, hidden_dim)`; with `reverse=True` numbers `(batch, size)`.

    Raises:
        ValueError: `size` is not a positive integer, or `inputs` are no numbers `(batch, size)`.

    Example:

    >>> net = kmm.layers.NumberModality(16, size=2)
    >>> net(np.array([[0.5, np.nan]], "float32")).shape
    (1, 2, 16)

    Reference:
        Gorishniy et al. 2021, arXiv 2106.11959, section 3.3 (the feature tokenizer).
    """

    def __init__(self, hidden_dim: int, size: int = 1, preprocessor: Any = None, **kwargs):
        self.size = positive_int("size", size)
        super().__init__(self.size, hidden_dim, preprocessor=preprocessor, **kwargs)

    @property
    def num_positions(self) -> int:
        return self.size

    def build_encode(self) -> None:
        shape, initializer = (self.size, self.hidden_dim), keras.initializers.RandomNormal
        self.kernel = self.add_weight(shape, initializer(stddev=1.0), name="kernel")
        self.bias = self.add_weight(shape, initializer(stddev=1.0), name="bias")

    def read(self, inputs: Tensor) -> Tensor:
        known = self.padding_mask(inputs)
        x = ops.where(known, ops.cast(inputs, "float32"), 0.0)[..., None]
        x = x * ops.cast(self.kernel, "float32") + ops.cast(self.bias, "float32")
        return ops.cast(ops.where(known[..., None], x, 0.0), self.compute_dtype)

    def padding_mask(self, inputs: Tensor) -> Tensor:
        return ops.logical_not(ops.isnan(ops.cast(inputs, "float32")))

    def default_loss(self) -> keras.losses.Loss:
        """Returns the Huber loss of the scaled numbers."""
        return Huber()

    def default_metrics(self) -> list[keras.metrics.Metric]:
        """Returns the mean absolute error and R² in raw units."""
        units = getattr(self.preprocessor, "raw_units", dict)()
        return [MeanAbsoluteError(**units), RSquared(self.size, **units)]

    def prediction(self, outputs: Tensor) -> Tensor:
        """Returns the numbers, in float32."""
        return ops.cast(outputs, "float32")

    def log_probability(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns minus the Huber loss of each row: a log-density up to a constant."""
        losses = Huber().call(targets, outputs)
        return -ops.sum(ops.where(ops.isnan(targets), 0.0, losses), axis=-1)

    def get_config(self):
        return {**super().get_config(), "size": self.size}
