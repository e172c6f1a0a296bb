"""The tasks that a schedule draws, as a data set."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_multimodel.data.schedules.schedule import Schedule


class Draws:
    """The numbers of the tasks that the steps of a training train.

    Windows of steps are drawn when the first of their steps is read, and not before: an adaptive
    schedule does not know them earlier.

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
            begin of the window of step `stop`; see `Schedule.draw_window`.
        """
        window = self._schedule.window
        counts = np.zeros(len(self._sizes), "int64")
        owed = owed_after = np.zeros(len(self._sizes))
        for number in range(-(-stop // window)):
            first, owed = number * window, owed_after
            drawn, owed_after = self._draw(number, owed)
            drawn = drawn[max(start - first, 0) : stop - first]
            counts += np.bincount(drawn, minlength=len(counts))
        return counts, owed if stop % window else owed_after

    def dataset(self, step: tf.Tensor, owed: tf.Tensor) -> tf.data.Dataset:
        """Returns the int64 numbers of the tasks from a step on, without end.

        Args:
            step: int64, number of the step.
            owed: what is owed at the begin of its window.

        Returns:
            The data set.
        """

        def draw(owed, number):
            types = [tf.int64, tf.float64]
            drawn, after = tf.numpy_function(self._draw, [number, owed], types)
            return tf.ensure_shape(after, owed.shape), tf.ensure_shape(drawn, [None])

        window = self._schedule.window
        windows = tf.data.Dataset.counter(step // window).scan(owed, draw)
        return windows.unbatch().skip(step % window)

    def _draw(self, number, owed):
        return self._schedule.draw_window(self._sizes, self._seed, int(number), owed)
