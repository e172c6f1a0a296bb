"""A mixture, the data set whose iterations are epochs, and the position: which epoch is next."""

import gc
import itertools
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.mixing.fingerprint import fingerprint
from keras_multimodel.data.mixing.schedules.schedule import Schedule, TaskDraws, weak_method
from keras_multimodel.data.mixing.task_batches import TaskReader

_SHARE = 0.05  # of the time, that collections take at most
_next_collection = time.monotonic() + 10.0


def _collect_garbage() -> None:
    """Gives back the memory of data sets that are gone, now and then.

    TensorFlow makes a graph for each function of a data set, and every graph refers to itself: two
    megabytes for each fit on a new mixture. Python looks for such cycles once the objects have
    become a quarter more, which beside those of TensorFlow and Keras takes dozens of mixtures.
    """
    global _next_collection
    start = time.monotonic()
    if start < _next_collection:
        return
    gc.collect()
    end = time.monotonic()
    _next_collection = end + (end - start) / _SHARE


class Position:
    """Which epoch of a mixture comes next, and how many of its steps are left out.

    Given to `kmm.data.mix`, it decides what the next iteration of the mixture yields: epoch `epoch`
    without its first `step` steps. Starting an iteration moves the position to the next epoch;
    `move` sets it to any place. What an epoch holds depends on the mixture and the epoch's number
    alone, so an iteration can be repeated, or resumed where it was cut off, as
    `kmm.callbacks.Resume` does. A position belongs to one mixture: `mix` binds it.

    Args:
        epoch: number of the next epoch, from 0.
        step: how many of its first steps are left out.

    Raises:
        ValueError: an argument is not an integer of at least 0.

    Example:

    >>> position = kmm.data.Position(epoch=3)
    >>> position.move(epoch=4, step=10)
    >>> position.epoch, position.step
    (4, 10)
    """

    def __init__(self, epoch: int = 0, step: int = 0):
        # Set by `bind`: what the contents of an epoch depend on, and the schedule of the mixture.
        self.mixture: dict | None = None
        self.schedule: Schedule | None = None
        self._datasets: Mapping[str, tf.data.Dataset] = {}
        self._steps = None
        self.move(epoch, step)

    def move(self, epoch: int, step: int = 0) -> None:
        """Sets what the next iteration yields.

        Args:
            epoch: number of the epoch, from 0.
            step: how many of its first steps are left out.

        Raises:
            ValueError: an argument is not an integer of at least 0, or the epoch has fewer steps.
        """
        epoch = positive_int("epoch", epoch, minimum=0)
        step = positive_int("step", step, minimum=0)
        _check_step(step, self._steps)
        self.epoch, self.step = epoch, step

    def begin(self) -> tuple[int, int]:
        """Returns epoch and step of an iteration that begins, and moves to the next epoch."""
        begun = self.epoch, self.step
        self.epoch, self.step = self.epoch + 1, 0
        return begun

    def bind(
        self,
        mixture: dict,
        schedule: Schedule | None = None,
        datasets: Mapping[str, tf.data.Dataset] | None = None,
    ) -> None:
        """Ties the position to a mixture; `mix` calls it.

        Args:
            mixture: what the contents of an epoch depend on, in a form that JSON can hold.
            schedule: the schedule of the mixture, or None.
            datasets: task name -> examples.

        Raises:
            ValueError: `step` is past the end of an epoch.
        """
        _check_step(self.step, mixture["steps"])
        self._steps = mixture["steps"]
        self.mixture = json.loads(json.dumps(mixture))  # `Resume` compares it to one from a file
        self.schedule = schedule
        self._datasets = datasets or {}

    def fingerprints(self, counts: Mapping[str, int] | None = None) -> dict[str, list[int]]:
        """Returns of each task how many of its first examples were read, and their checksum.

        Args:
            counts: task name -> how many to read; see `fingerprint`.
        """
        counts = counts or {}
        return {
            name: list(fingerprint(dataset, counts.get(name)))
            for name, dataset in self._datasets.items()
        }

    def check_unbound(self) -> None:
        """Raises a ValueError if the position belongs to a mixture."""
        if self.mixture is not None:
            raise ValueError(
                "`position` must be new for every mixture. Received: the position of a mixture of "
                f"{', '.join(self.mixture['rows'])}"
            )

    def check_steps(self, steps: int | None) -> None:
        """Checks that an epoch of `fit` is an epoch of the mixture.

        Args:
            steps: the number of steps of an epoch of `fit`.

        Raises:
            ValueError: the mixture has another number, or there is no mixture.
        """
        if self.mixture is None:
            raise ValueError(
                "`position` must be given to `kmm.data.mix` too. "
                "Received: a position without a mixture"
            )
        if steps != self._steps:
            raise ValueError(
                f"`fit` must read the mixture of the position itself, {self._steps} steps in an "
                "epoch: use `steps` of `kmm.data.mix` instead of `steps_per_epoch` and `repeat`. "
                f"Received: {steps} steps in an epoch"
            )


def _check_step(step, steps):
    if steps is not None and step > steps:
        raise ValueError(
            f"`step` must be at most the {steps} steps of an epoch. Received: step={step}"
        )


class Mixture(tf.data.Dataset):
    """A data set each of whose iterations is the next epoch; `kmm.data.mix` returns it.

    It is a `tf.data.Dataset` like any other, with a length that TensorFlow cannot state: an epoch
    has `steps` steps, and an iteration that a `Position` starts in the middle of an epoch has only
    the rest. `assert_cardinality` would make that an error, and without a cardinality `fit` does
    not know how long its first epoch is.

    `map`, `prefetch` and `repeat` return mixtures too. Other transformations of a mixture with a
    position return data sets of unknown cardinality.

    Args:
        dataset: the epochs.
        steps: number of steps in an epoch, -1 if it has no end.
        num_shapes: how many different shapes the steps can have, None if that is not known; also an
            attribute. A backend that compiles for each shape makes as many programs.
    """

    def __init__(self, dataset: tf.data.Dataset, steps: int, num_shapes: int | None = None):
        self._dataset = dataset
        self._steps = steps
        self.num_shapes = num_shapes
        super().__init__(tf.data.experimental.to_variant(dataset))

    def cardinality(self) -> tf.Tensor:
        """Returns the number of steps in an epoch, an int64 scalar."""
        return tf.constant(self._steps, tf.int64)

    @property
    def element_spec(self):
        """The specs of an element `(x, y)`."""
        return self._dataset.element_spec

    def map(self, *args: Any, **kwargs: Any) -> "Mixture":
        """Returns the mixture with a function applied to each step; see `tf.data.Dataset.map`."""
        return Mixture(super().map(*args, **kwargs), self._steps, self.num_shapes)

    def prefetch(self, *args: Any, **kwargs: Any) -> "Mixture":
        """Returns the mixture, read ahead; see `tf.data.Dataset.prefetch`."""
        return Mixture(super().prefetch(*args, **kwargs), self._steps, self.num_shapes)

    def repeat(self, count: int | None = None, **kwargs: Any) -> "Mixture":
        """Returns the mixture, repeated; see `tf.data.Dataset.repeat`."""
        endless = self._steps < 0 or count is None or count < 0
        steps = -1 if endless else self._steps * (count or 0)
        return Mixture(super().repeat(count, **kwargs), steps, self.num_shapes)

    def _inputs(self):
        # Abstract in `tf.data.Dataset`: the data sets whose options this one inherits.
        return [self._dataset]


class EpochReader:
    """Reads the steps of an epoch: a batch of every task, or of the task that a schedule draws.

    TensorFlow alone reads. Python only starts the iterators of an epoch, keeps them for the next
    epoch after the last step, and draws tasks (`TaskDraws`). It never waits for data: a Python
    generator that waits can wait forever on the replicas of a strategy, and keeps a process from
    ending.

    Args:
        readers: task name -> reader of its batches.
        steps: number of steps in an epoch.
        position: which epoch the next iteration yields.
        continues: whether an epoch continues the passes of the one before, or starts new ones.
        draws: the task of each step; None if every step has all tasks.
    """

    def __init__(
        self,
        readers: Mapping[str, TaskReader],
        steps: int,
        position: Position,
        continues: bool,
        draws: TaskDraws | None = None,
    ):
        _collect_garbage()
        self._readers = readers
        self._steps = steps
        self._position = position
        self._continues = continues
        self._draws = draws
        self._tickets = itertools.count()
        self._running = None  # ticket and iterators of the latest epoch that was started

    def dataset(self) -> tf.data.Dataset:
        """Returns the data set whose iterations are the epochs, dicts task -> batch."""
        options = tf.data.Options()
        # The thread that tunes an iterator can miss that the iterator is to end: dropping the
        # iterator then blocks for up to a minute.
        options.autotune.enabled = False
        # `flat_map` calls `_epoch` when an iteration starts, so that it may look at the position.
        steps = tf.data.Dataset.range(1).flat_map(self._epoch).prefetch(2)
        # After the prefetch: only a step that somebody takes may have iterators kept. An iteration
        # that is dropped can read ahead to the last step while it is cancelled, and iterators that
        # were cancelled yield nothing more.
        return steps.map(self._take).with_options(options)

    @tf.autograph.experimental.do_not_convert
    def _epoch(self, _):
        num_tasks = len(self._readers)
        types = [*[tf.int64] * 4, tf.float64, *[tf.resource] * num_tasks]
        ticket, epoch, step, counts, owed, *iterators = tf.py_function(
            weak_method(self._start), [], types
        )
        for tensor in (ticket, epoch, step, *iterators):
            tensor.set_shape([])
        for tensor in (counts, owed):
            tensor.set_shape([num_tasks])
        steps = tf.data.Dataset.range(step, self._steps)
        if self._draws is not None:
            first = epoch * self._steps + step
            steps = tf.data.Dataset.zip(steps, self._draws.dataset(first, owed))

        @tf.autograph.experimental.do_not_convert
        def read(counts, step):
            step, task = step if isinstance(step, tuple) else (step, None)
            batches, read = self._read(iterators, task)
            counts += read
            return counts, (ticket, step, counts, batches)

        return steps.scan(counts, read)

    @tf.autograph.experimental.do_not_convert
    def _take(self, ticket, step, counts, batches):
        if not self._continues:
            return batches
        kept = tf.cond(
            step == self._steps - 1,
            lambda: tf.py_function(weak_method(self._keep), [ticket, counts], []),
            tf.no_op,
        )
        # The iterators are kept before the last step is handed out: nobody has to ask for more.
        with tf.control_dependencies([kept]):
            return tf.nest.map_structure(tf.identity, batches)

    def _read(self, iterators, task):
        """Returns the batches of a step, and how many each task has read for it."""
        of_task = dict(zip(self._readers, iterators, strict=True))
        if task is None:
            batches = {name: self._readers[name].next_batch(of_task[name]) for name in of_task}
            return batches, tf.ones(len(iterators), "int64")
        empty = {name: reader.empty_batch() for name, reader in self._readers.items()}

        def read(name):
            return lambda: {**empty, name: self._readers[name].next_batch(of_task[name])}

        batches = tf.switch_case(tf.cast(task, "int32"), [read(name) for name in of_task])
        return batches, tf.one_hot(task, len(iterators), dtype="int64")

    def _start(self):
        """Returns ticket, epoch, step, what each task has read and is owed, and the iterators."""
        epoch, step = self._position.begin()
        order, before = (0, epoch * self._steps) if self._continues else (epoch, 0)
        counts = np.full(len(self._readers), before + step)
        owed = np.zeros(len(counts))
        if self._draws is not None:
            first = epoch * self._steps
            counts, owed = self._draws.count(first - before, first + step)
        readers = self._readers.values()
        iterators = [reader.start(order, n) for reader, n in zip(readers, counts.tolist())]
        ticket = next(self._tickets)
        # Iterations may run side by side. The latest one has its iterators kept, and no other.
        self._running = (ticket, iterators) if self._continues else None
        return ticket, epoch, step, counts, owed, *iterators

    def _keep(self, ticket, counts):
        if self._running is None or self._running[0] != int(ticket):
            return
        _, iterators = self._running
        self._running = None
        counts = counts.numpy().tolist()
        for reader, count, iterator in zip(self._readers.values(), counts, iterators):
            reader.keep(0, count, iterator)
