"""Batches of examples of similar length, under a budget of tokens."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_multimodel.data.mixing.streams import Source, endless_passes

_PADDING = 0.08  # a bucket with a smaller part of padding is not split
_SHUFFLED_BATCHES = 16
_ENDLESS = np.iinfo(np.int32).max


class Bucket(NamedTuple):
    """The examples whose lengths lie in `(low, high]`, for inputs and targets."""

    low: tuple[int, int]
    high: tuple[int, int]
    size: int  # number of examples
    rows: int  # most of them in a batch


def has_length(spec: tf.TensorSpec) -> bool:
    """Returns whether examples of a spec are sequences: of variable size in the first axis only."""
    shape = spec.shape.as_list()
    return bool(shape) and shape[0] is None and None not in shape[1:]


def bucketed_source(
    name: str, dataset: tf.data.Dataset, token_budget: int, buffer_size: int | None
) -> Source:
    """Returns the batches of a task whose padded sequences have at most `token_budget` positions.

    The lengths of all examples are read once. They are split in two at the place that saves most
    padding, in inputs or in targets, and again, as long as much would be padding and each part
    fills a batch. Every example is in one batch of a pass; the last batch of a bucket may be
    smaller.

    Args:
        name: the task.
        dataset: the examples, the same at each pass.
        token_budget: most positions of a batch, of inputs and targets together: rows times the sum
            of the two longest. What is of fixed size does not count.
        buffer_size: the most examples that shuffling holds in memory, None for no shuffling.

    Returns:
        The source.

    Raises:
        ValueError: an example is longer than the budget.
    """
    lengths = _measure(dataset)
    _check_longest(name, lengths, token_budget)
    buckets = make_buckets(lengths, token_budget)
    num_batches = sum(math.ceil(bucket.size / bucket.rows) for bucket in buckets)
    lows, highs, rows = (
        tf.constant([getattr(bucket, field) for bucket in buckets], dtype)
        for field, dtype in (("low", "int32"), ("high", "int32"), ("rows", "int64"))
    )

    def key(example):
        length = _lengths(example, dataset.element_spec)
        inside = tf.reduce_all((length > lows) & (length <= highs), axis=1)
        return tf.argmax(tf.cast(inside, "int32"))

    def group(examples, seed):
        batches = examples.group_by_window(
            key,
            lambda bucket, window: window.padded_batch(rows[bucket]),
            window_size_func=lambda bucket: rows[bucket],
        )
        if not buffer_size:
            return batches
        return batches.shuffle(_SHUFFLED_BATCHES, seed=seed, reshuffle_each_iteration=False)

    def batches(pass_seed, batch):
        passes = endless_passes(dataset, pass_seed, batch // num_batches, buffer_size, group)
        return passes.skip(batch % num_batches)

    size = len(lengths)
    spec = dataset.padded_batch(1).element_spec
    return Source(batches, num_batches, size, {"token_budget": token_budget}, spec)


def make_buckets(lengths: np.ndarray, token_budget: int) -> list[Bucket]:
    """Splits examples by their lengths.

    Args:
        lengths: `(examples, 2)`, of inputs and of targets.
        token_budget: most positions of a padded batch.

    Returns:
        The buckets; they have every example once, and every possible length.
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
        axis, place = cut
        below = lengths[:, axis] <= place
        ends = [place if i == axis else end for i, end in enumerate(high)]
        starts = [place if i == axis else start for i, start in enumerate(low)]
        split(lengths[below], low, ends)
        split(lengths[~below], starts, high)

    split(lengths, [-1, -1], [_ENDLESS, _ENDLESS])
    return buckets


def _best_cut(lengths, token_budget):
    """Returns axis and length after which to cut so as to save most padding, or None."""
    best, saved = None, 0
    longest = lengths.max(axis=0)
    rows = token_budget // max(int(longest.sum()), 1)
    for axis in (0, 1):
        places, counts = np.unique(lengths[:, axis], return_counts=True)
        places, below = places[:-1], np.cumsum(counts)[:-1]
        rows_below = token_budget // np.maximum(places + longest[1 - axis], 1)
        fills = (below >= rows_below) & (len(lengths) - below >= rows)
        gains = np.where(fills, below * (longest[axis] - places), 0)
        if gains.size and gains.max() > saved:
            saved = gains.max()
            best = axis, int(places[gains.argmax()])
    return best


def _lengths(example, spec):
    """Returns the int32 lengths `(2,)` of inputs and targets, 0 for what has a fixed size."""
    return tf.stack(
        [
            tf.shape(example[key])[0] if has_length(spec[key]) else tf.constant(0)
            for key in ("inputs", "targets")
        ]
    )


def _measure(dataset):
    spec = dataset.element_spec
    measured = dataset.map(lambda example: _lengths(example, spec)).batch(1024)
    return np.concatenate(list(measured.as_numpy_iterator()))


def _check_longest(name, lengths, token_budget):
    total = lengths.sum(axis=1)
    if total.max() > token_budget:
        number = int(total.argmax())
        inputs, targets = lengths[number].tolist()
        raise ValueError(
            f"`token_budget` must be at least the length of every example of `datasets['{name}']`. "
            f"Received: token_budget={token_budget}, but example {number} has a length of "
            f"{inputs + targets}: {inputs} of inputs and {targets} of targets"
        )
