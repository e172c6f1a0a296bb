"""The base of all schedules: which task each step trains."""

import abc
import itertools
import zlib
from collections.abc import Iterator, Mapping

import numpy as np


class Schedule(abc.ABC):
    """Says which task each step of a mixture trains; given to `kmm.data.mix`.

    A subclass implements `shares`. From these the tasks are drawn in windows of `window` steps,
    whose shares are those of its middle. Within a window each task comes as often as its share
    says; what rounding leaves over is made up for in the next windows, so that at no time a task is
    more than about a step away from its share. The order within a window is random. All of it
    follows from the seed.

    Attributes:
        window: number of steps that are drawn together.
        needs_sizes: whether `shares` depends on how many examples the tasks have.

    Example:

    >>> Proportional().draw({"speech": 100, "en_de": 300}, steps=4)
    ['en_de', 'speech', 'en_de', 'en_de']
    """

    window: int = 100
    needs_sizes: bool = True

    @abc.abstractmethod
    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        """Returns the share of each task at a step.

        Args:
            sizes: task name -> number of examples.
            step: number of the step, counted from the begin of training.

        Returns:
            task name -> share; they sum to 1.
        """

    def draw(
        self, sizes: Mapping[str, int], steps: int, seed: int = 0, epoch: int = 0
    ) -> list[str]:
        """Returns the tasks that the steps of an epoch train.

        Args:
            sizes: task name -> number of examples.
            steps: number of steps in every epoch.
            seed: of the order.
            epoch: number of the epoch, from 0.

        Returns:
            `steps` names of tasks.
        """
        drawn = itertools.chain.from_iterable(self.windows(sizes, seed))
        return list(itertools.islice(drawn, epoch * steps, (epoch + 1) * steps))

    def windows(self, sizes: Mapping[str, int], seed: int = 0) -> Iterator[list[str]]:
        """Yields, without end, the tasks of each window of steps."""
        names = list(sizes)
        owed = np.zeros(len(names))
        for number in itertools.count():
            drawn, owed = self.draw_window(sizes, seed, number, owed)
            yield [names[index] for index in drawn]

    def draw_window(
        self, sizes: Mapping[str, int], seed: int, number: int, owed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws the tasks of one window.

        Args:
            sizes: task name -> number of examples.
            seed: of the order.
            number: of the window, from 0.
            owed: `(tasks,)`, the steps that the windows before were short of their shares.

        Returns:
            the numbers of the tasks, `(window,)`, and what is owed now.
        """
        shares = self.shares(sizes, number * self.window + self.window // 2)
        owed = owed + self.window * np.array([shares[name] for name in sizes])
        counts = _largest_remainder(owed, self.window)
        random = np.random.default_rng(zlib.crc32(f"{seed} {number}".encode()))
        return random.permutation(np.repeat(np.arange(len(sizes)), counts)), owed - counts

    def bind(self, sizes: Mapping[str, int], seed: int, position, steps: int) -> None:
        """Tells a schedule that follows the training what `mix` uses it for.

        Args:
            sizes: task name -> number of examples.
            seed: of the order.
            position: the `Position` of the mixture.
            steps: number of steps in every epoch.
        """

    def get_config(self) -> dict:
        """Returns the constructor's arguments in a form that JSON can hold."""
        return {}

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns what the shares depend on besides the arguments; only adaptive ones do."""
        return {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""


def _largest_remainder(owed, total):
    """Returns whole numbers, none negative, that sum to `total` and are near to `owed`."""
    counts = np.maximum(np.floor(owed), 0.0)
    while counts.sum() < total:
        counts[np.argmax(owed - counts)] += 1
    while counts.sum() > total:
        counts[np.argmin(np.where(counts > 0, owed - counts, np.inf))] -= 1
    return counts.astype(int)
