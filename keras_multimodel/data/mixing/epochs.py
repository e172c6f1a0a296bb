"""The steps of a mixture, epoch by epoch."""

import itertools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_multimodel.data.mixing.position import Position
from keras_multimodel.data.mixing.streams import Draws, Stream


class Mixing:
    """Gives the steps of an epoch: batches of every task, or of the one that a schedule draws.

    TensorFlow reads. Python is asked at the begin of an iteration, where it opens readers, at the
    last step, where it keeps them for the next epoch, and by `Draws`; it never waits for data.

    Only whoever takes the last step has readers kept. An iteration that is given up in between may
    read ahead to that step as it is cancelled, and a reader that is cancelled ends.

    Args:
        streams: task name -> its batches.
        steps: number of steps in an epoch.
        position: which epoch the next iteration gives.
        continues: whether an epoch goes on in the passes of the one before, or begins new ones.
        draws: the task of each step; None if every step has all tasks.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        steps: int,
        position: Position,
        continues: bool,
        draws: Draws | None = None,
    ):
        self._streams = streams
        self._steps = steps
        self._position = position
        self._continues = continues
        self._draws = draws
        self._tickets = itertools.count()
        self._open = None  # ticket and readers of the latest iteration

    def dataset(self) -> tf.data.Dataset:
        """Returns the data set whose iterations are the epochs, dicts from task to batch."""
        options = tf.data.Options()
        # Whoever gives up an iterator whose thread tunes it may wait a minute for that thread: it
        # can miss that it is to end.
        options.autotune.enabled = False
        steps = tf.data.Dataset.range(1).flat_map(self._epoch).prefetch(2)
        return steps.map(self._take).with_options(options)

    @tf.autograph.experimental.do_not_convert
    def _epoch(self, _):
        number = len(self._streams)
        types = [*[tf.int64] * 4, tf.float64, *[tf.resource] * number]
        ticket, epoch, step, counts, owed, *readers = tf.py_function(self._begin, [], types)
        for tensor in (ticket, epoch, step, *readers):
            tensor.set_shape([])
        for tensor in (counts, owed):
            tensor.set_shape([number])
        steps = tf.data.Dataset.range(step, self._steps)
        if self._draws is not None:
            steps = tf.data.Dataset.zip(
                steps, self._draws.dataset(epoch * self._steps + step, owed)
            )

        @tf.autograph.experimental.do_not_convert
        def read(counts, step):
            step, task = step if isinstance(step, tuple) else (step, None)
            batches, read = self._read(readers, task)
            counts += read
            return counts, (ticket, step, counts, batches)

        return steps.scan(counts, read)

    @tf.autograph.experimental.do_not_convert
    def _take(self, ticket, step, counts, batches):
        if not self._continues:
            return batches
        done = tf.cond(
            step == self._steps - 1,
            lambda: tf.py_function(self._park, [ticket, counts], []),
            tf.no_op,
        )
        with tf.control_dependencies([done]):  # whoever takes the last step may not come back
            return tf.nest.map_structure(tf.identity, batches)

    def _read(self, readers, task):
        """Returns the batches of a step, and how many each task has read for it."""
        streams = dict(zip(self._streams, readers, strict=True))
        if task is None:
            batches = {name: self._streams[name].read(streams[name]) for name in streams}
            return batches, tf.ones(len(readers), "int64")
        nothing = {name: stream.nothing() for name, stream in self._streams.items()}

        def read(name):
            return lambda: {**nothing, name: self._streams[name].read(streams[name])}

        batches = tf.switch_case(tf.cast(task, "int32"), [read(name) for name in streams])
        return batches, tf.one_hot(task, len(readers), dtype="int64")

    def _begin(self):
        """Returns ticket, epoch, step, what each task has read and is owed, and the readers."""
        epoch, step = self._position.begin()
        origin, before = (0, epoch * self._steps) if self._continues else (epoch, 0)
        counts = np.full(len(self._streams), before + step)
        owed = np.zeros(len(counts))
        if self._draws is not None:
            first = epoch * self._steps
            counts, owed = self._draws.count(first - before, first + step)
        streams = self._streams.values()
        readers = [stream.open(origin, n) for stream, n in zip(streams, counts.tolist())]
        ticket = next(self._tickets)
        self._open = (ticket, readers) if self._continues else None
        return ticket, epoch, step, counts, owed, *readers

    def _park(self, ticket, counts):
        if self._open is None or self._open[0] != int(ticket):
            return
        _, readers = self._open
        self._open = None
        for stream, count, reader in zip(self._streams.values(), counts.numpy().tolist(), readers):
            stream.park(0, count, reader)
