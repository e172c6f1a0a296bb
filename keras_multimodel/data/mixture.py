"""From encoded examples of several tasks to one data set of batches."""

import math
import zlib
from collections.abc import Mapping

import tensorflow as tf

from keras_multimodel.data.checks import check_elements


def mix(
    datasets: Mapping[str, tf.data.Dataset],
    batch_size: int | None = None,
    shares: Mapping[str, int] | None = None,
    shuffle: bool = True,
    seed: int = 0,
    steps: int | None = None,
    buffer_size: int = 8192,
) -> tf.data.Dataset:
    """Mixes the data sets of several tasks: each step holds a share of every task.

    An element is `(x, y)`: `x[task]` has `"inputs"`, and `"targets"` where targets are sequences;
    `y[task]` has the targets. Within a task, examples are padded with 0 to the longest of the step.

    An epoch ends when every example has been seen at least once: after the most steps that a data
    set needs for one pass. Smaller data sets are repeated meanwhile. Each pass has an order of its
    own; all of it follows from `seed` and, where one is set, the global seed of TensorFlow.

    Args:
        datasets: task name -> encoded examples (see `encode`).
        batch_size: examples in a step, of all tasks together. Split evenly; the first tasks take
            what remains.
        shares: task name -> examples in a step, instead of an even split.
        shuffle: whether to shuffle the examples.
        seed: of the order.
        steps: steps in an epoch; needed only where a data set is infinite.
        buffer_size: the most examples of a task that shuffling holds in memory.

    Returns:
        A finite `tf.data.Dataset` of known cardinality.

    Raises:
        ValueError: there is no data set, one is empty or has other elements, or the arguments do
            not give each task at least one example in a step.

    Example:

    ```python
    train = kmm.data.mix({"digits": digits, "en_de": pairs}, batch_size=64)
    model.fit(train, epochs=10)
    ```
    """
    _check_datasets(datasets)
    shares = _shares(list(datasets), batch_size, shares)
    sizes = {name: _size(name, dataset, steps) for name, dataset in datasets.items()}
    if steps is None:
        steps = max(math.ceil(sizes[name] / share) for name, share in shares.items())
    elif not isinstance(steps, int) or steps < 1:
        raise ValueError(f"`steps` must be a positive integer. Received: steps={steps}")
    parts = {}
    for name, dataset in datasets.items():
        if shuffle:
            buffer = buffer_size if sizes[name] is None else min(buffer_size, sizes[name])
            stream = _shuffled_passes(dataset, buffer, zlib.crc32(f"{seed} {name}".encode()))
        else:
            stream = dataset.repeat()
        parts[name] = stream.padded_batch(shares[name], drop_remainder=True)
    mixed = tf.data.Dataset.zip(parts).map(_to_model)
    return mixed.take(steps).apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def batch(dataset: tf.data.Dataset, task: str, batch_size: int) -> tf.data.Dataset:
    """Batches the data set of one task for evaluation: every example once, in order.

    Args:
        dataset: encoded examples (see `encode`).
        task: the name of the task.
        batch_size: examples in a step; the last step may have fewer.

    Returns:
        A data set of `(x, y)` as in `mix`, with the one task.

    Raises:
        ValueError: `batch_size` is not a positive integer, or the data set is empty or has other
            elements.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f"`batch_size` must be a positive integer. Received: batch_size={batch_size}"
        )
    _check_datasets({task: dataset})
    batches = dataset.padded_batch(batch_size)
    return batches.map(lambda examples: _to_model({task: examples})).prefetch(2)


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


@tf.autograph.experimental.do_not_convert
def _to_model(batches):
    x, y = {}, {}
    for name, examples in batches.items():
        x[name] = {"inputs": examples["inputs"]}
        if examples["targets"].shape.rank > 1:
            x[name]["targets"] = examples["targets"]
        y[name] = examples["targets"]
    return x, y


def _check_datasets(datasets):
    if not isinstance(datasets, Mapping) or not datasets:
        raise ValueError(
            f"`datasets` must map at least one task to its data set. Received: datasets={datasets}"
        )
    for name, dataset in datasets.items():
        check_elements(f"datasets['{name}']", dataset)
        spec = dataset.element_spec
        rank = spec["targets"].shape.rank
        if spec["inputs"].dtype == tf.string or spec["targets"].dtype == tf.string:
            raise ValueError(
                f"`datasets['{name}']` must hold arrays: use `kmm.data.encode`. Received: {spec}"
            )
        if rank not in (0, 1) or not spec["targets"].dtype.is_integer:
            raise ValueError(
                f"`datasets['{name}']` must have targets that are one class or a sequence of ids. "
                f"Received: targets={spec['targets']}"
            )
        if _is_empty(dataset):
            raise ValueError(f"`datasets['{name}']` must not be empty. Received: 0 examples")


def _is_empty(dataset):
    size = int(dataset.cardinality())
    if size == tf.data.UNKNOWN_CARDINALITY:
        return not any(True for _ in dataset.take(1))
    return size == 0


def _shares(names, batch_size, shares):
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < len(names)):
        raise ValueError(
            f"`batch_size` must be an integer, at least one for each of {len(names)} tasks. "
            f"Received: batch_size={batch_size}"
        )
    if shares is None:
        if batch_size is None:
            raise ValueError("`batch_size` or `shares` must be given. Received: neither")
        each, rest = divmod(batch_size, len(names))
        return {name: each + (index < rest) for index, name in enumerate(names)}
    if set(shares) != set(names):
        raise ValueError(
            f"`shares` must have the tasks of `datasets`: {', '.join(names)}. "
            f"Received: shares={dict(shares)}"
        )
    for name, share in shares.items():
        if not isinstance(share, int) or share < 1:
            raise ValueError(
                f"`shares['{name}']` must be a positive integer. Received: shares={dict(shares)}"
            )
    if batch_size not in (None, sum(shares.values())):
        raise ValueError(
            f"`batch_size` must be the sum of `shares`, {sum(shares.values())}, or None. "
            f"Received: batch_size={batch_size}"
        )
    return dict(shares)


def _size(name, dataset, steps):
    size = int(dataset.cardinality())
    if size == tf.data.INFINITE_CARDINALITY and steps is None:
        raise ValueError(
            f"`steps` must be given, for `datasets['{name}']` is infinite. Received: steps=None"
        )
    if size == tf.data.UNKNOWN_CARDINALITY and steps is None:
        size = int(dataset.reduce(0, lambda count, _: count + 1))
    return size if size >= 0 else None
