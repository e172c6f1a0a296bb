"""Between every example and every task equally often."""

from collections.abc import Mapping

from keras_multimodel.data.schedules.schedule import Schedule


class Temperature(Schedule):
    """Trains a task in proportion to `min(size, cap) ** (1 / temperature)`.

    Temperature 1 without a cap is in proportion to size, a high temperature nearly uniform.

    Args:
        temperature: at least 1; 2 was best for T5.
        cap: number of examples above which a task counts as no larger; None for no cap.

    Raises:
        ValueError: `temperature` is under 1 or `cap` is not positive.

    Reference:
        Raffel et al. 2019, arXiv 1910.10683, section 3.5.2, temperature-scaled mixing with the
        artificial limit `cap`.
    """

    def __init__(self, temperature: float = 2.0, cap: int | None = None):
        if not 1 <= temperature < float("inf"):
            raise ValueError(
                "`temperature` must be a finite number of at least 1. "
                f"Received: temperature={temperature}"
            )
        if cap is not None and not cap > 0:
            raise ValueError(f"`cap` must be positive or None. Received: cap={cap}")
        self.temperature = temperature
        self.cap = cap

    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        cap = float("inf") if self.cap is None else self.cap
        weights = {name: min(size, cap) ** (1 / self.temperature) for name, size in sizes.items()}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}

    def get_config(self) -> dict:
        return {"temperature": self.temperature, "cap": self.cap}
