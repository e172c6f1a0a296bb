"""Endless batches of one task, read from any place on.

The tasks that a schedule draws, as a data set."""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_multimodel.data.mixing.schedules.schedule import Schedule


class Source(NamedTuple):
    """How a stream makes its batches."""

    batches: Callable  # (pass_seed, batch) -> the endless batches from a number on
    num_batches: int | None  # of a pass, None if unknown
    size: int | None  # examples, None if unknown
    rows: int | dict  # what decides how many examples a batch has
    spec: Mapping[str, tf.TensorSpec]  # of a batch


class Stream:
    """The batches of one task, pass after pass over its data set without end.

    A stream is opened at an origin and a batch. Streams of different origins have different orders;
    what follows is a pure function of seed, origin and number of the batch. A reader is a scalar
    tensor, the handle of a TensorFlow iterator, and belongs to whoever opened it. One that is
    parked is used again if the stream is next opened where it stands: going on costs nothing,
    anything else reads again what the pass holds before that place.

    Args:
        source: how the batches are made.
        seed: of the order, of this task alone.
    """

    def __init__(self, source: Source, seed: str):
        self._source = source  # holds what TensorFlow calls of the data sets in Python
        self._seed = seed
        self._parked = None
        self._spec = dict(source.spec)
        flat = tf.nest.flatten(self._spec)
        self._outputs = {
            "output_types": [spec.dtype for spec in flat],
            "output_shapes": [spec.shape for spec in flat],
        }
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False  # see `Mixing.dataset`

        @tf.function(input_signature=[tf.TensorSpec((), "int64")] * 2, autograph=False)
        def variant(seed, batch):
            dataset = source.batches(lambda index: seed + index, batch)
            return tf.data.experimental.to_variant(dataset.prefetch(1).with_options(options))

        self._variant = variant.get_concrete_function()

    def open(self, origin: int, batch: int) -> tf.Tensor:
        """Returns a reader whose next batch is number `batch` of an origin."""
        if self._parked is not None and self._parked[:2] == (origin, batch):
            *_, reader = self._parked
            self._parked = None
            return reader
        seed = zlib.crc32(f"{self._seed} {origin}".encode())
        dataset = self._variant(tf.constant(seed, "int64"), tf.constant(batch, "int64"))
        reader = tf.raw_ops.AnonymousIteratorV3(**self._outputs)
        tf.raw_ops.MakeIterator(dataset=dataset, iterator=reader)
        return reader

    def park(self, origin: int, batch: int, reader: tf.Tensor) -> None:
        """Takes back a reader whose next batch is number `batch` of an origin."""
        self._parked = origin, batch, reader

    def read(self, reader: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the next batch of a reader, within a graph too."""
        flat = tf.raw_ops.IteratorGetNext(iterator=reader, **self._outputs)
        return tf.nest.pack_sequence_as(self._spec, flat)

    def nothing(self) -> dict[str, tf.Tensor]:
        """Returns a batch of no example; an axis of any size is 1 there."""
        return {
            key: tf.zeros(
                [0, *(1 if size is None else size for size in spec.shape[1:])], spec.dtype
            )
            for key, spec in self._spec.items()
        }


def fixed_source(
    dataset: tf.data.Dataset,
    rows: int,
    size: int | None,
    buffer_size: int | None,
    static: bool,
) -> Source:
    """Returns batches that all have the same number of examples.

    Args:
        dataset: the examples.
        rows: number of examples in a batch; the batches go on over the end of a pass.
        size: number of examples, None if unknown.
        buffer_size: the most examples that shuffling holds in memory, None for no shuffling.
        static: whether every step has such a batch.

    Returns:
        The source.
    """

    def batches(pass_seed, batch):
        done = batch * rows
        first_pass, skipped = (done // size, done % size) if size else (0, done)
        examples = endless_passes(dataset, pass_seed, first_pass, buffer_size)
        return examples.skip(skipped).padded_batch(rows, drop_remainder=True)

    num_batches = None if size is None else math.ceil(size / rows)
    spec = dataset.padded_batch(rows, drop_remainder=static).element_spec
    return Source(batches, num_batches, size, rows, spec)


def endless_passes(
    dataset: tf.data.Dataset,
    pass_seed: Callable,
    first_pass: int | tf.Tensor,
    buffer_size: int | None,
    apply: Callable | None = None,
) -> tf.data.Dataset:
    """Returns a data set repeated without end, each pass in an order of its own.

    Args:
        dataset: the examples.
        pass_seed: seed of the pass of a number.
        first_pass: number of the first pass.
        buffer_size: the most examples that shuffling holds in memory, None for no shuffling.
        apply: what is done to each pass after it is shuffled: `(dataset, seed) -> dataset`.

    Returns:
        The passes, one after another.
    """

    def one_pass(index):
        # Of this function's graph alone: beside a global seed of 0, TensorFlow asks whether the
        # seed below is 0 too, and cannot, since it is a tensor.
        tf.random.set_seed(1)
        seed, examples = pass_seed(index), dataset
        if buffer_size:
            examples = dataset.shuffle(buffer_size, seed=seed, reshuffle_each_iteration=False)
        return examples if apply is None else apply(examples, seed)

    return tf.data.Dataset.counter(first_pass).flat_map(one_pass)


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
