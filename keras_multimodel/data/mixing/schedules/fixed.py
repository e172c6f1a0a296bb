"""Schedules whose shares follow from the sizes of the tasks and the number of the step."""

from collections.abc import Mapping

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.mixing.schedules.schedule import Schedule


class Uniform(Schedule):
    """Trains every task equally often, whatever its size.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137: `problem_choice="uniform"` of the authors' code.
    """

    needs_sizes = False

    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        return dict.fromkeys(sizes, 1.0 / len(sizes))


class Proportional(Schedule):
    """Trains a task as often as it has examples, as if all tasks were one data set.

    Reference:
        Raffel et al. 2019, arXiv 1910.10683, section 3.5.2, examples-proportional mixing.
    """

    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        return _in_proportion(sizes)


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

    def __init__(self, temperature: float = 2.0, cap: float | None = None):
        if not 1 <= temperature < float("inf"):
            raise ValueError(
                "`temperature` must be a finite number of at least 1. "
                f"Received: temperature={temperature}"
            )
        if cap is not None and not cap > 0:
            raise ValueError(f"`cap` must be positive or None. Received: cap={cap}")
        # As Python numbers: `get_config` is compared with what `Resume` has read from a file.
        self.temperature = float(temperature)
        self.cap = None if cap is None else float(cap)

    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        cap = float("inf") if self.cap is None else self.cap
        return _in_proportion(
            {name: min(size, cap) ** (1 / self.temperature) for name, size in sizes.items()}
        )

    def get_config(self) -> dict:
        return {"temperature": self.temperature, "cap": self.cap}


class Annealed(Schedule):
    """Trains a task in proportion to `size ** exponent`; the exponent changes with the steps.

    By default it falls linearly from 1, in proportion to size, to 0.2, nearly uniform: large tasks
    shape the model first, and at the end of training no task is forgotten.

    Args:
        steps: number of steps until the last exponent is reached; it stays from then on.
        first_exponent: exponent of the first step.
        last_exponent: exponent of step `steps`.

    Raises:
        ValueError: `steps` is not a positive integer, or an exponent is outside [0, 1].

    Reference:
        Stickland and Murray 2019, arXiv 1902.02671, section 4.1, annealed sampling:
        `exponent = 1 - 0.8 * (epoch - 1) / (epochs - 1)`.
    """

    def __init__(self, steps: int, first_exponent: float = 1.0, last_exponent: float = 0.2):
        self.steps = positive_int("steps", steps)
        exponents = {"first_exponent": first_exponent, "last_exponent": last_exponent}
        for name, exponent in exponents.items():
            if not 0 <= exponent <= 1:
                raise ValueError(f"`{name}` must be in [0, 1]. Received: {name}={exponent}")
        self.first_exponent = float(first_exponent)
        self.last_exponent = float(last_exponent)

    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        progress = min(step / self.steps, 1.0)
        exponent = self.first_exponent + progress * (self.last_exponent - self.first_exponent)
        return _in_proportion({name: float(size) ** exponent for name, size in sizes.items()})

    def get_config(self) -> dict:
        return {
            "steps": self.steps,
            "first_exponent": self.first_exponent,
            "last_exponent": self.last_exponent,
        }


def _in_proportion(weights):
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
