"""Steps that hold a share of every task."""

import zlib
from collections.abc import Mapping

import tensorflow as tf


def joint_steps(
    datasets: Mapping[str, tf.data.Dataset],
    rows: Mapping[str, int],
    sizes: Mapping[str, int | None],
    steps: int,
    shuffle: bool,
    seed: int,
    buffer_size: int,
) -> tf.data.Dataset:
    """Batches and zips the examples of several tasks, without a line of Python in between.

    Args:
        datasets: task name -> examples.
        rows: task name -> examples in a step.
        sizes: task name -> number of examples, None if it is not known.
        steps: steps in an epoch.
        shuffle: whether to shuffle the examples.
        seed: of the order.
        buffer_size: the most examples of a task that shuffling holds in memory.

    Returns:
        A data set of `steps` dicts from task to batch.
    """
    parts = {}
    for name, dataset in datasets.items():
        stream = dataset.repeat()
        if shuffle:
            buffer = min(buffer_size, sizes[name] or buffer_size)
            stream = _shuffled_passes(dataset, buffer, zlib.crc32(f"{seed} {name}".encode()))
        parts[name] = stream.padded_batch(rows[name], drop_remainder=True)
    return tf.data.Dataset.zip(parts).take(steps)


def _shuffled_passes(dataset, buffer_size, seed):
    """Repeats a data set endlessly, each pass and each epoch in an order of its own.

    `shuffle(reshuffle_each_iteration=True)` draws from one generator, which a pipeline that reads
    ahead at the end of an epoch moves on or not, as it happens. Here one number is drawn per epoch.
    """

    def epoch(number):
        def one_pass(index):
            # Of this function's graph alone: beside a global seed of 0, TensorFlow asks whether the
            # seed below is 0 too, and cannot, since it is a tensor.
            tf.random.set_seed(1)
            return dataset.shuffle(buffer_size, seed=number + index, reshuffle_each_iteration=False)

        return tf.data.Dataset.counter().flat_map(one_pass)

    numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return numbers.take(1).flat_map(epoch)
