"""From encoded examples of several tasks to one data set of batches."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_multimodel.argument_checks import integer, positive_int
from keras_multimodel.data.checks import TARGETS_OF, check_encoded, is_target
from keras_multimodel.data.mixing.classed_batches import classed_batches, ordered_batches
from keras_multimodel.data.mixing.mixture import EpochReader, Mixture, Position
from keras_multimodel.data.mixing.schedules.adaptive import Adaptive
from keras_multimodel.data.mixing.schedules.schedule import Schedule, TaskDraws
from keras_multimodel.data.mixing.step_sizes import rows_of_each_task, token_budgets
from keras_multimodel.data.mixing.task_batches import (
    TaskReader,
    bucketed_batches,
    fixed_batches,
    variable_axes,
)


def mix(
    datasets: Mapping[str, tf.data.Dataset],
    batch_size: int | None = None,
    shares: Mapping[str, int] | None = None,
    shuffle: bool = True,
    seed: int = 0,
    steps: int | None = None,
    buffer_size: int = 8192,
    schedule: Schedule | None = None,
    position: Position | None = None,
    token_budget: int | Mapping[str, int] | None = None,
    lengths: int | str | Mapping[str, Any] | None = None,
) -> Mixture:
    """Mixes the data sets of several tasks: each step holds a share of every task, or one task.

    An element is `(x, y)`: `x[task]` has `"inputs"`, and `"targets"` where targets are sequences;
    `y[task]` has the targets. Within a task, examples are padded with 0, see `lengths`. Tasks that
    a step does not train have no rows in it. Rows of several parts have an array for each part, and
    `"given"`, see `encode`; a data set of rows that several tasks read has the name of the rows.

    Without `steps`, an epoch of joint steps ends when every example has been seen at least once:
    after the most steps that a data set needs for one pass. Smaller data sets are repeated
    meanwhile, and the next epoch starts new passes. An epoch with a `schedule` has as many steps as
    one pass over all tasks. With a `schedule` or `steps`, an epoch continues the passes where the
    last one ended, unless `shuffle` is False: then every epoch starts from the first examples.

    The k-th iteration yields epoch k, unless a `position` moves it. What an epoch holds follows
    from the arguments and its number alone: not from threads, nor from how far other iterations
    were read. For that, data sets must yield the same examples at each pass; let `mix` shuffle
    them. An epoch that continues one that was read to its end starts at once. After an epoch that
    was broken off, or a `position` that was moved, what its passes hold before it is read again.

    TensorFlow alone reads, on one device or for the replicas of a `MirroredStrategy`. Its tuning of
    parallel calls while reading is off: `tf.data.AUTOTUNE` means as many calls as there are cores.

    Args:
        datasets: task name, or name of rows, -> encoded examples (see `encode`).
        batch_size: examples in a step. Where a step holds all tasks, it is split evenly; the first
            tasks take what remains.
        shares: task name -> examples in a step, instead of `batch_size`.
        shuffle: whether to shuffle the examples.
        seed: of the order.
        steps: steps in an epoch; needed only where a data set is infinite.
        buffer_size: the most examples of a task that shuffling holds in memory.
        schedule: which task each step trains; None if each step trains all. See
            `kmm.data.schedules`. An adaptive one is bound to this mixture.
        position: which epoch comes next, to resume training; see `Position`. It is bound to this
            mixture, and every iteration moves it.
        token_budget: the most positions of a task's batch, padding included, of its inputs and
            targets together; or task name -> budget. These tasks get batches of similar length with
            as many examples as fit, instead of a fixed number, and every example of a pass once.
            One number is for all tasks with sequences.
        lengths: what batches are padded to. `"dynamic"`: the longest example of each step, so that
            nearly every step has shapes of its own. A number: at most so many length classes, of at
            least four steps in a pass, chosen for little padding; a step is of one class in all its
            tasks. A dict from tasks to the lengths that their batches may have, in ascending order,
            for inputs and targets alike or as a dict of the two; there are as many classes as in
            the longest list. Where the backend compiles a program for each set of shapes (JAX, or
            TensorFlow with `jit_compile=True`), the classes make the programs few: `num_shapes` of
            the mixture says how many. By default 3 on JAX, and `"dynamic"` elsewhere and for data
            sets that are infinite, or may be. Classes read every example once at this call to learn
            its length, and then once per class in a pass, always in the same order: cache what is
            slow to decode, and let `mix` shuffle. With a token budget, the last batch of a class is
            filled up from the next pass.

    Returns:
        A finite `tf.data.Dataset` of known cardinality.

    Raises:
        ValueError: there is no data set, one is empty or has other elements, the arguments do
            not give each task at least one example in a step, an example is longer than the token
            budget or than `lengths` allows, a schedule, a budget or `lengths` needs all lengths of
            an infinite data set, or `position` or `schedule` belongs to another mixture.

    Example:

    ```python
    import tensorflow as tf

    def examples(size):
        ids = np.arange(1, size + 1)[:, None] * np.ones((1, 3), "int32")
        return tf.data.Dataset.from_tensor_slices({"inputs": ids, "targets": np.arange(size)})

    train = kmm.data.mix({"a": examples(10), "b": examples(4)}, batch_size=4)
    x, y = next(iter(train))
    print(x["a"]["inputs"].shape, y["b"].shape, int(train.cardinality()))  # (2, 3) (2,) 5
    ```
    """
    _check_datasets(datasets)
    _check_helpers(schedule, position)
    seed = integer("seed", seed)
    buffer_size = positive_int("buffer_size", buffer_size, minimum=0)
    steps = None if steps is None else positive_int("steps", steps)
    budgets = token_budgets(datasets, token_budget)
    fixed = [name for name in datasets if name not in budgets]
    joint = schedule is None
    rows = rows_of_each_task(fixed, batch_size, shares, joint)
    sizes = {name: _size(name, datasets[name], steps, schedule) for name in datasets}
    buffers = {
        # A buffer for more examples than there are buys nothing.
        name: min(buffer_size, size or buffer_size) if shuffle else None
        for name, size in sizes.items()
    }
    classed, num_shapes = {}, 0
    if (chosen := _chosen_lengths(lengths, datasets, 3, steps)) != "dynamic":
        classed, num_shapes = classed_batches(datasets, chosen, rows, budgets, buffers, seed, joint)
    batches = {}
    for name, dataset in datasets.items():
        if name in classed:
            batches[name] = classed[name]
        elif name in budgets:
            batches[name] = bucketed_batches(name, dataset, budgets[name], buffers[name])
        else:
            batches[name] = fixed_batches(dataset, rows[name], sizes[name], buffers[name], joint)
    # Whole passes of joint steps end at different steps in each task, so the next epoch starts new
    # ones. Without shuffling, an epoch that continued would hold other examples each time.
    continues = shuffle and not (steps is None and schedule is None)
    if steps is None:
        passes = [of_task.num_batches for of_task in batches.values()]
        steps = max(passes) if schedule is None else sum(passes)
    sizes = {name: of_task.num_examples for name, of_task in batches.items()}
    kind = None if schedule is None else {type(schedule).__name__: schedule.get_config()}
    # What an epoch depends on besides the examples: a training resumes on an equal mixture only.
    description = {
        "seed": seed,
        "steps": steps,
        "rows": {name: of_task.rows for name, of_task in batches.items()},
        "sizes": sizes,
        "buffer_size": buffer_size if shuffle else 0,
        "schedule": kind,
    }
    where = Position() if position is None else position
    where.bind(description, schedule, datasets)
    draws = None
    if schedule is not None:
        schedule.bind(sizes, seed, where, steps)
        draws = TaskDraws(schedule, sizes, seed)
    readers = {name: TaskReader(of_task, f"{seed} {name}") for name, of_task in batches.items()}
    epochs = EpochReader(readers, steps, where, continues, draws).dataset().map(_to_model)
    if position is None and not isinstance(schedule, Adaptive):
        # Nothing moves the position, so that every epoch is whole.
        epochs = epochs.apply(tf.data.experimental.assert_cardinality(steps))
    static = [name for name in datasets if not variable_axes(datasets[name].element_spec)]
    num_shapes = max(1, num_shapes) if joint else num_shapes + len(static)
    dynamic = len(static) + len(classed) < len(datasets)
    return Mixture(epochs, steps, None if dynamic else num_shapes)


def batch(
    dataset: tf.data.Dataset,
    task: str,
    batch_size: int,
    lengths: int | str | Mapping[str, Any] | None = None,
) -> tf.data.Dataset:
    """Batches the data set of one task for evaluation: every example once, in order.

    Args:
        dataset: encoded examples (see `encode`).
        task: the name of the task.
        batch_size: examples in a step; the last step may have fewer.
        lengths: what batches are padded to, see `mix`. A batch is padded to the smallest class that
            holds its examples. By default 1 on JAX, the longest example of all, and `"dynamic"`
            elsewhere.

    Returns:
        A data set of `(x, y)` as in `mix`, with the one task.

    Raises:
        ValueError: `batch_size` is not a positive integer, `task` is not a name, or the data set is
            empty or has other elements.
    """
    batch_size = positive_int("batch_size", batch_size)
    if not isinstance(task, str):
        raise ValueError(f"`task` must be the name of a task. Received: task={task!r}")
    _check_datasets({task: dataset})
    lengths = _chosen_lengths(lengths, {task: dataset}, 1)
    if lengths == "dynamic" or not variable_axes(dataset.element_spec):
        batches = dataset.padded_batch(batch_size)
        return batches.map(lambda examples: _to_model({task: examples})).prefetch(2)
    batches, steps, num_shapes = ordered_batches(task, dataset, lengths, batch_size)
    batches = batches.map(lambda examples: _to_model({task: examples})).prefetch(2)
    return Mixture(batches, steps, num_shapes)


def _chosen_lengths(lengths, datasets, default, steps=None):
    """Returns the lengths to use where the user gave none, and checks that they can be measured."""
    # JAX compiles every function for its shapes. TensorFlow does so only with `jit_compile`, which
    # is not known here; torch does not.
    if lengths == "dynamic" or (lengths is None and keras.backend.backend() != "jax"):
        return "dynamic"
    sizes = {
        name: int(dataset.cardinality())
        for name, dataset in datasets.items()
        if variable_axes(dataset.element_spec)
    }
    endless = [name for name, size in sizes.items() if size == tf.data.INFINITE_CARDINALITY]
    if lengths is not None and endless:
        raise ValueError(
            f"`lengths` needs all lengths of `datasets['{endless[0]}']`, which is infinite. "
            f"Received: lengths={lengths}"
        )
    # Measuring data of unknown size might never end.
    unknown = steps is not None and tf.data.UNKNOWN_CARDINALITY in sizes.values()
    if lengths is None:
        return "dynamic" if endless or unknown else default
    return lengths


@tf.autograph.experimental.do_not_convert
def _to_model(batches):
    x, y = {}, {}
    for name, examples in batches.items():
        x[name] = {key: array for key, array in examples.items() if not is_target(key)}
        for key in filter(is_target, examples):
            task = key.removeprefix(TARGETS_OF) if key != "targets" else name
            y[task] = examples[key]
            # Sequences of ids are read too. Vectors, such as numbers, are floats.
            if y[task].shape.rank > 1 and y[task].dtype.is_integer:
                x.setdefault(task, {})["targets"] = y[task]
    return x, y


def _check_datasets(datasets: Any):
    is_mapping = isinstance(datasets, Mapping) and datasets
    if not is_mapping or not all(isinstance(name, str) for name in datasets):
        raise ValueError(
            "`datasets` must map at least one task, by its name, to its data set. "
            f"Received: datasets={datasets}"
        )
    for name, dataset in datasets.items():
        check_encoded(f"datasets['{name}']", dataset)
        for key in filter(is_target, dataset.element_spec):
            _check_target(name, dataset.element_spec[key])
        size = int(dataset.cardinality())
        if size == tf.data.UNKNOWN_CARDINALITY:
            # Now, since an endless repetition of nothing would never yield a first step.
            size = sum(1 for _ in dataset.take(1))
        if size == 0:
            raise ValueError(f"`datasets['{name}']` must not be empty. Received: 0 examples")


def _check_target(name, targets):
    is_ids = targets.shape.rank in (0, 1) and targets.dtype.is_integer
    # Numbers and labels: of floats, which `_to_model` tells from ids.
    is_vector = targets.dtype.is_floating and targets.shape.rank == 1
    if not is_ids and not (is_vector and targets.shape[0] is not None):
        raise ValueError(
            f"`datasets['{name}']` must have targets that are one class or a sequence of ids, "
            f"or a float vector of a fixed size. Received: targets={targets}"
        )


def _check_helpers(schedule, position):
    if not isinstance(schedule, Schedule | None):
        raise ValueError(
            "`schedule` must be a `kmm.data.schedules.Schedule` or None. "
            f"Received: schedule={schedule!r}"
        )
    if not isinstance(position, Position | None):
        raise ValueError(
            f"`position` must be a `kmm.data.Position` or None. Received: position={position!r}"
        )
    # Before the data sets are read, and before one of the two is bound to a mixture that fails.
    if position is not None:
        position.check_unbound()
    if schedule is not None:
        schedule.check_unbound()


def _size(name, dataset, steps, schedule):
    """Returns the number of examples, or None where nothing depends on it."""
    size = int(dataset.cardinality())
    by_size = schedule is not None and schedule.needs_sizes
    if size == tf.data.INFINITE_CARDINALITY:
        if steps is None:
            raise ValueError(
                f"`steps` must be given, for `datasets['{name}']` is infinite. Received: steps=None"
            )
        if by_size:
            raise ValueError(
                f"`schedule` needs the size of `datasets['{name}']`, which is infinite. "
                f"Received: schedule={type(schedule).__name__}"
            )
    # Counting reads everything, files included: only where the number is needed.
    if size == tf.data.UNKNOWN_CARDINALITY and (steps is None or by_size):
        size = int(dataset.reduce(0, lambda count, _: count + 1))
    return size if size >= 0 else None
