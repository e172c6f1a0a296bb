"""The batches of one task: how they are made, and a reader that starts at any of them.

A batch has a fixed number of examples, or as many of similar length as a budget of tokens allows.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_multimodel.typing import Tensor

PARTS = ("inputs", "targets")
_PADDING = 0.08  # a bucket with a smaller share of padding is not split
_SHUFFLED_BATCHES = 16
_NO_LIMIT = np.iinfo(np.int32).max


class TaskBatches(NamedTuple):
    """How the batches of a task are made.

    Attributes:
        start_at: `(pass_seed, number, order) -> data set`: the batches from a number on, without
            end. `pass_seed` maps the number of a pass to the seed of its order.
        num_batches: batches of a pass, None if unknown.
        num_examples: examples of a pass, None if unknown.
        rows: examples of a batch, or what decides it; a mixture that resumes must have the same.
        spec: of a batch.
    """

    start_at: Callable
    num_batches: int | None
    num_examples: int | None
    rows: int | dict
    spec: Mapping[str, tf.TensorSpec]


class TaskReader:
    """Reads the batches of a task, pass after pass over its data set without end.

    Reading starts at any batch of any order. What follows is a pure function of the seed, the
    number of the order and the number of the batch. An iterator here is a scalar tensor, the handle
    of a TensorFlow iterator, so that a graph can read from it. An iterator that is kept is used
    again if reading next starts where it stands, which costs nothing. Any other start reads again
    what the pass holds before that batch.

    Args:
        batches: how the batches are made.
        seed: of all orders of this task.
    """

    def __init__(self, batches: TaskBatches, seed: str):
        # TensorFlow calls Python functions of the data sets, and does not keep them alive.
        self._batches = batches
        self._seed = seed
        self._kept = None
        self._spec = dict(batches.spec)
        flat = tf.nest.flatten(self._spec)
        self._outputs = {
            "output_types": [spec.dtype for spec in flat],
            "output_shapes": [spec.shape for spec in flat],
        }
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False  # see `EpochReader.dataset`

        # Traced once: each start is one call of this graph with other numbers.
        @tf.function(input_signature=[tf.TensorSpec((), "int64")] * 3, autograph=False)
        def variant(seed, number, order):
            dataset = batches.start_at(lambda index: seed + index, number, order)
            return tf.data.experimental.to_variant(dataset.prefetch(1).with_options(options))

        self._variant = variant.get_concrete_function()

    def start(self, order: int, number: int) -> Tensor:
        """Returns an iterator whose next batch is the one with `number` in an order."""
        if self._kept is not None and self._kept[:2] == (order, number):
            *_, iterator = self._kept
            self._kept = None
            return iterator
        seed = zlib.crc32(f"{self._seed} {order}".encode())
        dataset = self._variant(*(tf.constant(n, "int64") for n in (seed, number, order)))
        iterator = tf.raw_ops.AnonymousIteratorV3(**self._outputs)
        tf.raw_ops.MakeIterator(dataset=dataset, iterator=iterator)
        return iterator

    def keep(self, order: int, number: int, iterator: Tensor) -> None:
        """Takes back an iterator whose next batch is the one with `number` in an order."""
        self._kept = order, number, iterator

    def next_batch(self, iterator: Tensor) -> dict[str, tf.Tensor]:
        """Returns the next batch of an iterator, eagerly or in a graph."""
        flat = tf.raw_ops.IteratorGetNext(iterator=iterator, **self._outputs)
        return tf.nest.pack_sequence_as(self._spec, flat)

    def empty_batch(self) -> dict[str, tf.Tensor]:
        """Returns a batch without examples; axes of variable size have length 1."""
        return {
            key: tf.zeros([0, *(1 if n is None else n for n in spec.shape[1:])], spec.dtype)
            for key, spec in self._spec.items()
        }


def fixed_batches(
    dataset: tf.data.Dataset,
    rows: int,
    num_examples: int | None,
    buffer_size: int | None,
    in_every_step: bool,
    padded_shapes: Mapping[str, list[int]] | None = None,
) -> TaskBatches:
    """Returns batches with a fixed number of examples; they continue across the end of a pass.

    Args:
        dataset: the examples.
        rows: examples in a batch.
        num_examples: examples of the data set, None if unknown.
        buffer_size: the most examples that shuffling holds in memory, None for no shuffling.
        in_every_step: whether every step has a batch of this task, so that its size is static.
        padded_shapes: part of an example -> its padded shape; None for that of the longest in a
            batch.
    """

    def start_at(pass_seed, number, order):
        first_pass, skipped = 0, number * rows
        if num_examples:
            first_pass, skipped = skipped // num_examples, skipped % num_examples
        examples = _endless_passes(dataset, pass_seed, first_pass, buffer_size)
        return examples.skip(skipped).padded_batch(rows, padded_shapes, drop_remainder=True)

    num_batches = None if num_examples is None else math.ceil(num_examples / rows)
    spec = dataset.padded_batch(rows, padded_shapes, drop_remainder=in_every_step).element_spec
    return TaskBatches(start_at, num_batches, num_examples, rows, spec)


def has_length(spec: tf.TensorSpec) -> bool:
    """Returns whether examples of a spec are sequences: only their first axis varies in size."""
    shape = spec.shape.as_list()
    return bool(shape) and shape[0] is None and None not in shape[1:]


def variable_axes(spec: Mapping[str, tf.TensorSpec]) -> list[tuple[str, int]]:
    """Returns part and number of each axis of an example that varies in size."""
    return [
        (part, axis)
        for part in sorted(spec)
        for axis, size in enumerate(spec[part].shape.as_list())
        if size is None
    ]


def bucketed_batches(
    name: str, dataset: tf.data.Dataset, token_budget: int, buffer_size: int | None
) -> TaskBatches:
    """Returns batches of similar length whose padded sequences have few enough positions.

    Reads the lengths of all examples once, and splits the examples into buckets (`make_buckets`).
    Every example is in one batch of a pass; the last batch of a bucket may be smaller.

    Args:
        name: the task, for messages.
        dataset: the examples, the same at each pass.
        token_budget: the most positions of a batch, of inputs and targets together: rows times the
            sum of the two longest. What has a fixed size does not count.
        buffer_size: the most examples that shuffling holds in memory, None for no shuffling.

    Raises:
        ValueError: an example is longer than the budget.
    """
    element_spec = dataset.element_spec
    measured = dataset.map(lambda example: _lengths(example, element_spec)).batch(1024)
    lengths = np.concatenate(list(measured.as_numpy_iterator()))
    number = int(lengths.sum(axis=1).argmax())
    longest = dict(zip(sorted(element_spec), lengths[number].tolist()))
    if sum(longest.values()) > token_budget:
        parts = " and ".join(f"{length} of {part}" for part, length in longest.items())
        raise ValueError(
            f"`token_budget` must be at least the length of every example of `datasets['{name}']`. "
            f"Received: token_budget={token_budget}, but example {number} has a length of "
            f"{sum(longest.values())}: {parts}"
        )
    buckets = make_buckets(lengths, token_budget)
    num_batches = sum(math.ceil(bucket.size / bucket.rows) for bucket in buckets)
    lows = tf.constant([bucket.low for bucket in buckets], "int32")
    highs = tf.constant([bucket.high for bucket in buckets], "int32")
    rows = tf.constant([bucket.rows for bucket in buckets], "int64")

    def bucket_of(example):
        length = _lengths(example, element_spec)
        inside = tf.reduce_all((length > lows) & (length <= highs), axis=1)
        return tf.argmax(tf.cast(inside, "int32"))

    def group(examples, seed):
        batches = examples.group_by_window(
            bucket_of,
            lambda bucket, window: window.padded_batch(rows[bucket]),
            window_size_func=lambda bucket: rows[bucket],
        )
        if not buffer_size:
            return batches
        # The last, smaller batches of all buckets would else come together, at the end of a pass.
        return batches.shuffle(_SHUFFLED_BATCHES, seed=seed, reshuffle_each_iteration=False)

    def start_at(pass_seed, number, order):
        first_pass = number // num_batches
        passes = _endless_passes(dataset, pass_seed, first_pass, buffer_size, group)
        return passes.skip(number % num_batches)

    spec = dataset.padded_batch(1).element_spec
    return TaskBatches(start_at, num_batches, len(lengths), {"token_budget": token_budget}, spec)


class Bucket(NamedTuple):
    """The examples whose lengths lie in `(low, high]`, for each of their parts.

    Attributes:
        low: the lengths of the parts, such as inputs and targets, that are just too short.
        high: the greatest lengths.
        size: number of examples.
        rows: the most examples of a batch.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    size: int
    rows: int


def make_buckets(lengths: np.ndarray, token_budget: int) -> list[Bucket]:
    """Splits examples by their lengths.

    Splits them in two at the length, of inputs or of targets, that saves most padding, and each
    part again, as long as a part has much padding and both halves fill a batch.

    Args:
        lengths: `(examples, parts)`, of inputs and of targets.
        token_budget: the most positions of a padded batch.

    Returns:
        The buckets. Each example, and each possible length, belongs to exactly one.
    """
    buckets = []

    def split(lengths, low, high):
        longest = lengths.max(axis=0)
        rows = token_budget // max(int(longest.sum()), 1)
        padding = 1.0 - lengths.sum() / max(len(lengths) * longest.sum(), 1)
        cut = _best_cut(lengths, token_budget) if padding > _PADDING else None
        if cut is None:
            buckets.append(Bucket(tuple(low), tuple(high), len(lengths), rows))
            return
        axis, length = cut
        below = lengths[:, axis] <= length
        split(lengths[below], low, [length if i == axis else end for i, end in enumerate(high)])
        split(lengths[~below], [length if i == axis else end for i, end in enumerate(low)], high)

    # From -1, since an example of fixed size counts as one of length 0.
    split(lengths, [-1] * lengths.shape[1], [_NO_LIMIT] * lengths.shape[1])
    return buckets


def _best_cut(lengths, token_budget):
    """Returns axis and length after which a cut saves most padding, or None."""
    best, saved = None, 0
    longest = lengths.max(axis=0)
    rows = token_budget // max(int(longest.sum()), 1)
    for axis in range(len(longest)):
        places, counts = np.unique(lengths[:, axis], return_counts=True)
        places, below = places[:-1], np.cumsum(counts)[:-1]
        rows_below = token_budget // np.maximum(places + longest.sum() - longest[axis], 1)
        fills = (below >= rows_below) & (len(lengths) - below >= rows)
        gains = np.where(fills, below * (longest[axis] - places), 0)
        if gains.size and gains.max() > saved:
            saved = gains.max()
            best = axis, int(places[gains.argmax()])
    return best


def _lengths(example, spec):
    """Returns the int32 lengths `(parts,)` of an example, 0 for what has a fixed size."""
    lengths = [
        tf.shape(example[key])[0] if has_length(spec[key]) else tf.constant(0)
        for key in sorted(spec)
    ]
    return tf.stack(lengths)


def _endless_passes(dataset, pass_seed, first_pass, buffer_size, apply=None):
    """Returns a data set repeated without end, each pass in an order of its own.

    Args:
        dataset: the examples.
        pass_seed: maps the number of a pass to its seed.
        first_pass: number of the first pass, an integer or a tensor.
        buffer_size: the most examples that shuffling holds in memory, None for no shuffling.
        apply: what is done to each pass after it is shuffled: `(dataset, seed) -> dataset`.
    """

    def one_pass(index):
        # Applies to this function's graph alone. With a global seed of 0, TensorFlow asks whether
        # the seed below is 0 too, and cannot, since it is a tensor.
        tf.random.set_seed(1)
        seed, examples = pass_seed(index), dataset
        if buffer_size:
            examples = dataset.shuffle(buffer_size, seed=seed, reshuffle_each_iteration=False)
        return examples if apply is None else apply(examples, seed)

    return tf.data.Dataset.counter(first_pass).flat_map(one_pass)
