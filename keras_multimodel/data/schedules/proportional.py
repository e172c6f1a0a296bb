"""Every example equally often."""

from collections.abc import Mapping

from keras_multimodel.data.schedules.schedule import Schedule


class Proportional(Schedule):
    """Trains a task as often as it has examples: as if all of them were one data set.

    Reference:
        Raffel et al. 2019, arXiv 1910.10683, section 3.5.2, examples-proportional mixing.
    """

    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        total = sum(sizes.values())
        return {name: size / total for name, size in sizes.items()}
