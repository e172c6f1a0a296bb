"""The steps of a mixture, epoch by epoch."""

import atexit
import collections
import gc
import itertools
import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops.multi_device_iterator_ops import OwnedMultiDeviceIterator

from keras_multimodel.data.position import Position
from keras_multimodel.data.streams import Stream

_ITERATORS = (tf.data.Iterator, OwnedMultiDeviceIterator)
_RESOURCES = ("_iterator_resource", "_device_iterators", "_multi_device_iterator_resource")


@atexit.register
def release_iterators() -> None:
    """Ends the iterations of TensorFlow data sets that are still held when Python exits.

    An iteration of a mixture calls Python when it ends. After Python has begun to take itself down
    that is not possible any more, and TensorFlow would wait for it for ever.
    """
    for thing in gc.get_objects():
        if issubclass(type(thing), _ITERATORS):
            for name in _RESOURCES:
                if hasattr(thing, name):
                    setattr(thing, name, None)


class Mixing:
    """Gives the steps of an epoch: batches of every task, or of the one that a schedule draws.

    Args:
        streams: task name -> its batches.
        signature: task name -> dict of `tf.TensorSpec` of its batches.
        steps: number of steps in an epoch.
        position: which epoch the next iteration gives.
        continues: whether an epoch goes on in the passes of the one before, or begins new ones.
        draws: function without arguments that yields, without end, the windows of drawn tasks;
            None if every step has all tasks.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        signature: Mapping[str, Mapping],
        steps: int,
        position: Position,
        continues: bool,
        draws: Callable | None = None,
    ):
        self._streams = streams
        self._signature = signature
        self._steps = steps
        self._position = position
        self._continues = continues
        self._draws = draws
        self._nothing = {
            name: {key: _no_rows(spec) for key, spec in specs.items()}
            for name, specs in signature.items()
        }

    def dataset(self) -> tf.data.Dataset:
        """Returns the data set whose iterations are the epochs."""
        dataset = tf.data.Dataset.from_generator(self, output_signature=self._signature)
        options = tf.data.Options()
        # The thread that runs this generator waits for the streams. From TensorFlow's own pool, it
        # would keep them from being computed: with few cores for ever.
        options.threading.private_threadpool_size = max(2, os.cpu_count() or 2)
        return dataset.with_options(options)

    def __call__(self) -> Iterator[dict]:
        """Yields the steps of the position's epoch, as dicts from task to batch."""
        epoch, step = self._position.begin()
        origin, tasks, counts = self._start(epoch, step)
        readers = {}
        for number in range(step, self._steps):
            step_tasks = next(tasks)
            for name in step_tasks:
                if name not in readers:
                    readers[name] = self._streams[name].open(origin, counts[name])
            batches = {name: _read(readers[name]) for name in step_tasks}
            if number == self._steps - 1:  # whoever takes the last step may not come back
                for name, reader in readers.items():
                    self._streams[name].park(reader)
            yield {**self._nothing, **batches}

    def _start(self, epoch, step):
        """Returns the origin of the epoch's streams, the tasks of each step, and per task the
        number of its first batch."""
        origin, before = (0, epoch * self._steps) if self._continues else (epoch, 0)
        if self._draws is None:
            everything = list(self._streams)
            return origin, itertools.repeat(everything), dict.fromkeys(everything, before + step)
        drawn = itertools.chain.from_iterable(self._draws())
        collections.deque(itertools.islice(drawn, epoch * self._steps - before), maxlen=0)
        counts = collections.Counter(itertools.islice(drawn, before + step))
        return origin, ([name] for name in drawn), counts


def _read(reader):
    try:
        return next(reader)
    except tf.errors.OpError as error:
        # Left alone, it would come out as an error of another class, of the function it passed.
        raise ValueError(error.message) from error


def _no_rows(spec):
    """Returns a batch of no example; an axis of any size is 1 there."""
    shape = [1 if size is None else size for size in spec.shape[1:]]
    return np.zeros([0, *shape], spec.dtype.as_numpy_dtype)
