"""Every task equally often."""

from collections.abc import Mapping

from keras_multimodel.data.schedules.schedule import Schedule


class Uniform(Schedule):
    """Trains every task equally often, whatever its size.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137: `problem_choice="uniform"` of the authors' code.
    """

    needs_sizes = False

    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        return dict.fromkeys(sizes, 1.0 / len(sizes))
