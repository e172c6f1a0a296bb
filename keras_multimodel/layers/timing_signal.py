"""The sinusoids that tell a model where in a sequence it is."""

import keras
import numpy as np
from keras import ops

from keras_multimodel.argument_checks import positive
from keras_multimodel.typing import Nested, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class TimingSignal(keras.layers.Layer):
    """Adds sines and cosines of the position, interleaved over the channels.

    `timing(t, 2i) = sin(t / max_timescale^(2i / depth))`, `timing(t, 2i + 1) = cos` of the same
    angle.

    Args:
        max_timescale: the longest wavelength is `2 * pi` times this.

    Call arguments:
        inputs: `(batch, length, depth)`.
        start: position of the first input, an integer or a scalar tensor; above 0 where a sequence
            comes in pieces.

    Returns:
        `(batch, length, depth)`, the inputs plus the signal.

    Raises:
        ValueError: `max_timescale` is not positive, or the inputs are not of rank 3.

    Example:
        >>> kmm.layers.TimingSignal()(np.zeros((1, 2, 4), "float32")).shape
        (1, 2, 4)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.3; the code's other layout is
        `tensor2tensor.timing.SliceNetTimingSignal`.
    """

    def __init__(self, max_timescale: float = 10_000.0, **kwargs):
        super().__init__(**kwargs)
        self.max_timescale = positive("max_timescale", max_timescale)
        self.supports_masking = True

    def build(self, input_shape: Shape):
        if len(input_shape) != 3:
            raise ValueError(
                f"`inputs` must be of shape (batch, length, depth). Received: shape={input_shape}"
            )
        # NumPy constants, not weights: saved models do not hold them.
        self._rates, self._phases = self.rates_and_phases(input_shape[-1])

    def rates_and_phases(self, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns per channel the angle per position and its offset, two arrays `(depth,)`."""
        pair = np.arange(depth) // 2
        rates = self.max_timescale ** (-2.0 * pair / depth)
        return rates, np.where(np.arange(depth) % 2, np.pi / 2, 0.0)  # cos(a) = sin(a + pi / 2)

    def signal(self, length: int | Tensor, start: int | Tensor = 0) -> Tensor:
        """Returns the float32 signal `(length, depth)` of the positions from `start`."""
        # In float32 under every policy: bfloat16 has no integers above 256 in steps of 1.
        positions = ops.cast(ops.arange(length) + start, "float32")
        rates, phases = (ops.cast(x, "float32") for x in (self._rates, self._phases))
        return ops.sin(positions[:, None] * rates + phases)

    def call(self, inputs: Tensor, start: int | Tensor = 0):
        signal = self.signal(ops.shape(inputs)[1], start)
        return inputs + ops.cast(signal, inputs.dtype)

    def initial_cache(
        self,
        batch_size: int,
        max_length: int,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Nested:
        """Returns the empty cache of a sequence read step by step; see `layers.stepping`."""
        return ()

    def step(self, inputs: Tensor, cache: Nested, index: int | Tensor) -> tuple[Tensor, Nested]:
        """Adds the signal of position `index` to `(batch, depth)`; see `layers.stepping`."""
        # `(1, depth)`: every row of the batch is at the same position.
        return inputs + ops.cast(self.signal(1, index), inputs.dtype), cache

    def compute_output_shape(self, input_shape: Shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "max_timescale": self.max_timescale}
