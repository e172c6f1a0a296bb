"""The timing signal of the authors' code."""

import keras
import numpy as np

from keras_multimodel.layers.timing_signal import TimingSignal


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SliceNetTimingSignal(TimingSignal):
    """Adds sines, then cosines, to the first channels only.

    With `n = num_timescales`, channel `i < n` gets `sin(t / max_timescale^(i / (n - 1)))`, channel
    `n + i` the cosine of the same angle, and channels from `2 n` on stay as they are.

    Args:
        num_timescales: how many wavelengths, at least 2.
        max_timescale: the longest wavelength is `2 * pi` times this.

    Call arguments:
        inputs: `(batch, length, depth)` with `depth >= 2 * num_timescales`.
        start: position of the first input.

    Returns:
        `(batch, length, depth)`.

    Raises:
        ValueError: `num_timescales` is under 2 or does not fit into `depth`.

    Reference:
        tensor2tensor, commit 3d9c62f2 (June 2017), as described in the golden vectors' README.
    """

    def __init__(self, num_timescales: int = 16, max_timescale: float = 10_000.0, **kwargs):
        super().__init__(max_timescale=max_timescale, **kwargs)
        if not isinstance(num_timescales, int) or num_timescales < 2:
            raise ValueError(
                "`num_timescales` must be an integer of at least 2. "
                f"Received: num_timescales={num_timescales}"
            )
        self.num_timescales = num_timescales

    def rates_and_phases(self, depth: int) -> tuple[np.ndarray, np.ndarray]:
        n = self.num_timescales
        if depth < 2 * n:
            raise ValueError(
                "`num_timescales` needs a depth of at least twice its value. "
                f"Received: num_timescales={n}, depth={depth}"
            )
        rates = self.max_timescale ** (-np.arange(n) / (n - 1))
        rest = np.zeros(depth - 2 * n)
        phases = np.concatenate([np.zeros(n), np.full(n, np.pi / 2), rest])
        return np.concatenate([rates, rates, rest]), phases  # a rate and phase of 0: sin(0) = 0

    def get_config(self):
        return {**super().get_config(), "num_timescales": self.num_timescales}
