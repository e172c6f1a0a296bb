"""Endless batches of one task, read from any place on."""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf


class Source(NamedTuple):
    """How a stream makes its batches."""

    batches: Callable  # (pass_seed, batch) -> data set
    num_batches: int | None  # of a pass, None if unknown
    size: int | None  # examples, None if unknown
    rows: int | dict  # what decides how many examples a batch has
    spec: Mapping[str, tf.TensorSpec]  # of a batch


class Stream:
    """The batches of one task, pass after pass over its data set without end.

    A stream is opened at an origin and a batch. Streams of different origins have different orders;
    what follows is a pure function of seed, origin and number of the batch. A reader that is given
    back is used again if the stream is next opened where it stands: going on costs nothing,
    anything else reads again what the pass holds before that place.

    Args:
        batches: function `(pass_seed, batch) -> dataset`: the endless batches from a number on.
            `pass_seed(index)` is the seed of a pass, for a tensor `index`.
        seed: of the order, of this task alone.
    """

    def __init__(self, batches: Callable, seed: str):
        self._batches = batches
        self._seed = seed
        self._parked = None

    def open(self, origin: int, batch: int) -> "Reader":
        """Returns a reader whose next batch is number `batch` of an origin."""
        reader, self._parked = self._parked, None
        if reader is None or (reader.origin, reader.batch) != (origin, batch):
            reader = Reader(self._dataset(origin, batch), origin, batch)
        return reader

    def park(self, reader: "Reader") -> None:
        """Takes back a reader that has been read to its next batch."""
        self._parked = reader

    def _dataset(self, origin, batch):
        seed = zlib.crc32(f"{self._seed} {origin}".encode())
        options = tf.data.Options()
        options.deterministic = True
        dataset = self._batches(lambda index: seed + index, batch)
        return dataset.prefetch(1).with_options(options)


class Reader:
    """Reads a stream, and knows the number of its next batch."""

    def __init__(self, dataset: tf.data.Dataset, origin: int, batch: int):
        self._iterator = dataset.as_numpy_iterator()
        self.origin = origin
        self.batch = batch

    def __next__(self) -> Mapping:
        element = next(self._iterator)
        self.batch += 1
        return element


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
        first_pass, skipped = divmod(batch * rows, size) if size else (0, batch * rows)
        examples = endless_passes(dataset, pass_seed, first_pass, buffer_size)
        return examples.skip(skipped).padded_batch(rows, drop_remainder=True)

    num_batches = None if size is None else math.ceil(size / rows)
    spec = dataset.padded_batch(rows, drop_remainder=static).element_spec
    return Source(batches, num_batches, size, rows, spec)


def endless_passes(
    dataset: tf.data.Dataset,
    pass_seed: Callable,
    first_pass: int,
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
