"""Series of measurements in."""

from typing import Any

import keras
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.adaptable import Dense
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SeriesModality(ModalityNet):
    """Reads a series of measurements, `patch_size` steps as one position.

    An example has two numbers for each channel and step, as `kmm.data.SeriesPreprocessor` makes
    them: the values, 0 where one is missing, and then 1 for each value that is known, 0 for each
    that is missing. Steps without any known value are padding: at the end, and within. A constant
    series of zeros is none.

    Args:
        hidden_dim: width of the body's representation.
        channels: values of a step.
        patch_size: steps of a position. Long series need it: the body has a position for each.
        preprocessor: scales raw series; see `ModalityNet`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, steps, 2 * channels)`.

    Returns:
        `(batch, ceil(steps / patch_size), hidden_dim)`, zero at padding.

    Raises:
        ValueError: `channels` or `patch_size` is not a positive integer, or `inputs` have another
            shape.

    Example:

    >>> preprocess = kmm.data.SeriesPreprocessor(channels=2)
    >>> series = preprocess(np.array([[0.0, 1.0], [np.nan, 2.0], [0.5, 3.0]]))
    >>> kmm.layers.SeriesModality(16, channels=2, patch_size=2)(series[None]).shape
    (1, 2, 16)

    Reference:
        Nie et al. 2023, arXiv 2211.14730, section 3.1 (patches); Che et al. 2018, arXiv 1606.01865,
        section 2.1 (values beside a mask of what is known).
    """

    nan_is_gap = True  # of raw series; the preprocessor leaves none

    def __init__(
        self,
        hidden_dim: int,
        channels: int = 1,
        patch_size: int = 1,
        preprocessor: Any = None,
        **kwargs,
    ):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        self.channels = positive_int("channels", channels)
        self.patch_size = positive_int("patch_size", patch_size)
        self.example_shape = (None, 2 * self.channels)
        # Without Keras' cast of inputs: large values would be infinite in float16.
        self.autocast = False

    def build(self, input_shape: Shape):
        shape = (None, None, self.patch_size * 2 * self.channels)
        self.dense = self.make(Dense, shape, self.hidden_dim, name="dense")

    def encode(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self.check_examples(inputs, "series")
        x = ops.cast(inputs, "float32")
        x = ops.where(self._known_steps(inputs), ops.where(ops.isnan(x), 0.0, x), 0.0)
        x = self.dense(ops.cast(self._patches(x), self.compute_dtype))
        return x * ops.cast(self.padding_mask(inputs), x.dtype)[..., None]

    def encoded_shape(self, inputs: Tensor) -> Shape:
        self.check_examples(inputs, "series")
        steps = inputs.shape[1]
        length = None if steps is None else -(-steps // self.patch_size)
        return inputs.shape[0], length, self.hidden_dim

    def padding_mask(self, inputs: Tensor) -> Tensor:
        return ops.any(self._patches(self._known_steps(inputs)), axis=-1)

    def get_config(self):
        own = {"channels": self.channels, "patch_size": self.patch_size}
        return {**super().get_config(), **own}

    def _known_steps(self, inputs):
        """Returns a boolean `(batch, steps, 1)`, True where some value is known."""
        return ops.any(inputs[..., self.channels :] != 0, axis=-1, keepdims=True)

    def _patches(self, x):
        """Joins the steps of each patch: `(batch, patches, patch_size * width)`."""
        # By slices: the number of steps may be dynamic, and is not known in a symbolic call.
        last = self.patch_size - 1
        x = ops.pad(x, [[0, 0], [0, last], [0, 0]])
        parts = [x[:, i : i - last or None : self.patch_size] for i in range(self.patch_size)]
        return ops.concatenate(parts, axis=-1)
