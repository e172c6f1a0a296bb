"""The base of all schedules: which task each step trains; and its draws as a data set."""

import abc
import itertools
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from keras_multimodel.typing import Tensor

if TYPE_CHECKING:
    from keras_multimodel.data.mixing.mixture import Position


class Schedule(abc.ABC):
    """Says which task each step of a mixture trains; given to `kmm.data.mix`.

    A subclass implements `shares`. Tasks are drawn in windows of `window` steps, with the shares of
    the middle of the window. Within a window, each task is drawn as often as its share says; what
    rounding leaves over is made up for in the next windows, so that no task is ever more than about
    a step away from its share. The order within a window is random. All of it follows from the
    seed.

    Attributes:
        window: number of steps that are drawn together.
        needs_sizes: whether `shares` depends on how many examples the tasks have.

    Example:

    >>> schedule = kmm.data.schedules.Proportional()
    >>> schedule.draw({"speech": 100, "en_de": 300}, steps=4)
    ['speech', 'en_de', 'speech', 'en_de']
    """

    window: int = 100
    needs_sizes: bool = True

    @abc.abstractmethod
    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        """Returns the share of each task at a step.

        Args:
            sizes: task name -> number of examples.
            step: number of the step, counted from the start of training.

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
        """Yields the tasks of each window of steps, without end."""
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
            owed: `(tasks,)`, the steps by which the windows before fell short of each share.

        Returns:
            the numbers of the tasks, `(window,)`, and what is owed after this window.
        """
        # A window has a seed of its own, so that any window can be drawn without the order of those
        # before it; of these only what they owe is needed.
        shares = self.shares(sizes, number * self.window + self.window // 2)
        owed = owed + self.window * np.array([shares[name] for name in sizes])
        counts = _largest_remainder(owed, self.window)
        random = np.random.default_rng(zlib.crc32(f"{seed} {number}".encode()))
        return random.permutation(np.repeat(np.arange(len(sizes)), counts)), owed - counts

    def bind(self, sizes: Mapping[str, int], seed: int, position: "Position", steps: int) -> None:
        """Ties a schedule that follows the training to a mixture; `mix` calls it.

        Args:
            sizes: task name -> number of examples.
            seed: of the order.
            position: the `Position` of the mixture.
            steps: number of steps in every epoch.
        """

    def check_unbound(self) -> None:
        """Raises a ValueError if the schedule belongs to a mixture and cannot serve another."""

    def get_config(self) -> dict:
        """Returns the constructor's arguments in a form that JSON can hold."""
        return {}

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns what the shares depend on besides the arguments; empty unless adaptive."""
        return {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""


def weak_method(method: Callable) -> Callable:
    """Returns a function that calls a bound method and does not keep its object alive.

    TensorFlow keeps the Python functions of data sets as long as the process runs, and with them
    all that they refer to. The data sets of an object keep it alive themselves.
    """
    reference = weakref.WeakMethod(method)

    def call(*arguments):
        found = reference()
        if found is None:
            raise ReferenceError("a data set is read that is gone")
        return found(*arguments)

    return call


class TaskDraws:
    """The numbers of the tasks that the steps of a training train, as a schedule draws them.

    A window of steps is drawn when its first step is read, and not before: an adaptive schedule
    does not know it earlier.

    Args:
        schedule: the schedule.
        sizes: task name -> number of examples.
        seed: of the order.
    """

    def __init__(self, schedule: Schedule, sizes: Mapping[str, int], seed: int):
        self._schedule = schedule
        self._sizes = sizes
        self._seed = seed

    def count(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Counts how often each task is drawn.

        Args:
            start: number of the first step.
            stop: number of the step after the last one.

        Returns:
            int64 `(tasks,)`, the counts, and float64 `(tasks,)`, what is owed to each task at the
            start of the window of step `stop`; see `Schedule.draw_window`.
        """
        window = self._schedule.window
        counts = np.zeros(len(self._sizes), "int64")
        owed = owed_after = np.zeros(len(self._sizes))
        # From the first window on: what is owed depends on all windows before.
        for number in range(-(-stop // window)):
            first, owed = number * window, owed_after
            drawn, owed_after = self._draw(number, owed)
            drawn = drawn[max(start - first, 0) : stop - first]
            counts += np.bincount(drawn, minlength=len(counts))
        return counts, owed if stop % window else owed_after

    def dataset(self, step: Tensor, owed: Tensor) -> tf.data.Dataset:
        """Returns the int64 numbers of the tasks from a step on, without end.

        Args:
            step: int64, number of the step.
            owed: what is owed at the start of its window.
        """

        def draw(owed, number):
            types = [tf.int64, tf.float64]
            drawn, after = tf.numpy_function(weak_method(self._draw), [number, owed], types)
            return tf.ensure_shape(after, owed.shape), tf.ensure_shape(drawn, [None])

        window = self._schedule.window
        windows = tf.data.Dataset.counter(step // window).scan(owed, draw)
        # `unbatch` reads a window only when a step of it is asked for.
        return windows.unbatch().skip(step % window)

    def _draw(self, number, owed):
        return self._schedule.draw_window(self._sizes, self._seed, int(number), owed)


def _largest_remainder(owed, total):
    """Returns whole numbers, none negative, that sum to `total` and are close to `owed`."""
    # A task may be owed less than nothing: rounding gave it too many steps before.
    counts = np.maximum(np.floor(owed), 0.0)
    while counts.sum() < total:
        counts[np.argmax(owed - counts)] += 1
    while counts.sum() > total:
        counts[np.argmin(np.where(counts > 0, owed - counts, np.inf))] -= 1
    return counts.astype(int)
