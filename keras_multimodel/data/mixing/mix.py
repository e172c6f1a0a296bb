"""How many examples of each task a step holds.

From encoded examples of several tasks to one data set of batches."""

from collections.abc import Mapping

import tensorflow as tf

from keras_multimodel.data.checks import check_elements
from keras_multimodel.data.mixing.buckets import bucketed_source, has_length
from keras_multimodel.data.mixing.epochs import Mixing
from keras_multimodel.data.mixing.position import Position
from keras_multimodel.data.mixing.schedules.adaptive import Adaptive
from keras_multimodel.data.mixing.schedules.schedule import Schedule
from keras_multimodel.data.mixing.streams import Draws, Stream, fixed_source


def token_budgets(
    datasets: Mapping[str, tf.data.Dataset], token_budget: int | Mapping[str, int] | None
) -> dict[str, int]:
    """Returns the budget of each task that has one.

    Args:
        datasets: task name -> examples.
        token_budget: the budget of all tasks with sequences, or task name -> budget, or None.

    Returns:
        task name -> budget.

    Raises:
        ValueError: a budget is not positive, or a task has no sequence or is unknown or infinite.
    """
    if token_budget is None:
        return {}
    sequential = [
        name
        for name, dataset in datasets.items()
        if any(has_length(spec) for spec in dataset.element_spec.values())
    ]
    budgets = token_budget
    if not isinstance(budgets, Mapping):
        budgets = dict.fromkeys(sequential, token_budget)
    unfit = [name for name in budgets if name not in sequential]
    if unfit or not budgets:
        raise ValueError(
            "`token_budget` must be of tasks with inputs or targets of variable length: "
            f"{', '.join(sequential) or 'there is none'}. Received: token_budget={token_budget}"
        )
    for name, budget in budgets.items():
        if not isinstance(budget, int) or budget < 1:
            raise ValueError(
                f"`token_budget` must be positive integers. Received: token_budget={token_budget}"
            )
        if datasets[name].cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                f"`token_budget` needs all lengths of `datasets['{name}']`, which is infinite. "
                f"Received: token_budget={token_budget}"
            )
    return dict(budgets)


def rows_of_steps(
    names: list[str], batch_size: int | None, shares: Mapping[str, int] | None, joint: bool
) -> dict[str, int]:
    """Returns the examples of each task without a token budget in a step that trains it.

    Args:
        names: those tasks.
        batch_size: examples in a step; a joint one is split evenly, the first tasks take what
            remains.
        shares: task name -> examples in a step.
        joint: whether a step holds all tasks, or one.

    Returns:
        task name -> examples.

    Raises:
        ValueError: the arguments contradict each other or give a task no example.
    """
    if not names:
        if batch_size is not None or shares is not None:
            raise ValueError(
                "`batch_size` and `shares` must be None if every task has a token budget. "
                f"Received: batch_size={batch_size}, shares={shares}"
            )
        return {}
    rows = _rows_of_joint_steps if joint else _rows_of_single_steps
    return rows(names, batch_size, shares)


def _rows_of_joint_steps(names, batch_size, shares):
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


def _rows_of_single_steps(names, batch_size, shares):
    if (batch_size is None) == (shares is None):
        raise ValueError(
            "Either `batch_size` or `shares` must be given if a step holds one task. "
            f"Received: batch_size={batch_size}, shares={shares}"
        )
    if shares is not None:
        return _rows_of_joint_steps(names, None, shares)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f"`batch_size` must be a positive integer. Received: batch_size={batch_size}"
        )
    return dict.fromkeys(names, batch_size)


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
) -> tf.data.Dataset:
    """Mixes the data sets of several tasks: each step holds a share of every task, or one task.

    An element is `(x, y)`: `x[task]` has `"inputs"`, and `"targets"` where targets are sequences;
    `y[task]` has the targets. Within a task, examples are padded with 0 to the longest of the step.
    Tasks that a step does not train have no rows in it.

    Without `steps`, an epoch of joint steps ends when every example has been seen at least once:
    after the most steps that a data set needs for one pass. Smaller data sets are repeated
    meanwhile, and the next epoch begins new passes. An epoch of a `schedule` has as many steps as
    one pass over all tasks. With a `schedule` or `steps`, the next epoch goes on in the passes
    where the last one ended, unless `shuffle` is False: then every epoch begins anew.

    The k-th iteration gives epoch k, where a `position` does not move it. What an epoch holds
    follows from the arguments and its number alone: not from threads, nor from how far other
    iterations were read. Data sets must give the same examples at each pass for that; let `mix`
    shuffle them. The look that `MultiModel.fit` and `evaluate` take at a first batch is no
    iteration. An epoch that goes on after one that was read to its end costs nothing at its begin;
    after one that was broken off, or a `position` that was moved, what its passes hold before it is
    read again.

    TensorFlow alone reads, on one device or for the replicas of a `MirroredStrategy`. Its tuning of
    parallel calls while reading is turned off: `tf.data.AUTOTUNE` means as many as there are cores.

    Args:
        datasets: task name -> encoded examples (see `encode`).
        batch_size: examples in a step. Where a step holds all tasks, it is split evenly; the first
            tasks take what remains.
        shares: task name -> examples in a step, instead of `batch_size`.
        shuffle: whether to shuffle the examples.
        seed: of the order.
        steps: steps in an epoch; needed only where a data set is infinite.
        buffer_size: the most examples of a task that shuffling holds in memory.
        schedule: which task each step trains; None if each step trains all. See
            `kmm.data.schedules`.
        position: which epoch comes next, to resume training; see `Position`.
        token_budget: most positions of a task's batch, padding included, of its inputs and targets
            together; or task name -> budget. These tasks get batches of similar length with as
            many examples as fit, instead of a fixed number, and every example of a pass once. One
            number is for all tasks with sequences.

    Returns:
        A finite `tf.data.Dataset` of known cardinality.

    Raises:
        ValueError: there is no data set, one is empty or has other elements, the arguments do
            not give each task at least one example in a step, an example is longer than the token
            budget, or a schedule or budget needs all lengths of an infinite data set.

    Example:

    ```python
    train = kmm.data.mix({"digits": digits, "en_de": pairs}, batch_size=64)
    model.fit(train, epochs=10)
    ```
    """
    _check_datasets(datasets)
    _check_helpers(schedule, position)
    names = list(datasets)
    budgets = token_budgets(datasets, token_budget)
    fixed = [name for name in names if name not in budgets]
    rows = rows_of_steps(fixed, batch_size, shares, joint=schedule is None)
    sources = {}
    for name, dataset in datasets.items():
        size = _size(name, dataset, steps, schedule)
        buffer = min(buffer_size, size or buffer_size) if shuffle else None
        if name in budgets:
            sources[name] = bucketed_source(name, dataset, budgets[name], buffer)
        else:
            sources[name] = fixed_source(dataset, rows[name], size, buffer, schedule is None)
    continues = shuffle and not (steps is None and schedule is None)
    steps = _steps(steps, [source.num_batches for source in sources.values()], schedule)
    sizes = {name: source.size for name, source in sources.items()}
    streams = {name: Stream(source, f"{seed} {name}") for name, source in sources.items()}
    where = Position() if position is None else position
    rows = {name: source.rows for name, source in sources.items()}
    where.bind(_description(seed, steps, rows, sizes, shuffle and buffer_size, schedule), schedule)
    draws = None
    if schedule is not None:
        schedule.bind(sizes, seed, where, steps)
        draws = Draws(schedule, sizes, seed)
    mixed = Mixing(streams, steps, where, continues, draws).dataset().map(_to_model)
    if position is None and not isinstance(schedule, Adaptive):
        return mixed.apply(tf.data.experimental.assert_cardinality(steps))
    # As above, but where the position is past the first steps an iteration may have fewer.
    mixed.cardinality = lambda: tf.constant(steps, "int64")
    return mixed


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


def _description(seed, steps, rows, sizes, buffer_size, schedule):
    """Returns what the contents of an epoch depend on, besides the examples."""
    kind = None if schedule is None else {type(schedule).__name__: schedule.get_config()}
    return {
        "seed": int(seed),
        "steps": steps,
        "rows": rows,
        "sizes": sizes,
        "buffer_size": int(buffer_size),
        "schedule": kind,
    }


def _check_helpers(schedule, position):
    if schedule is not None and not isinstance(schedule, Schedule):
        raise ValueError(
            "`schedule` must be a `kmm.data.schedules.Schedule` or None. "
            f"Received: schedule={schedule!r}"
        )
    if position is not None and not isinstance(position, Position):
        raise ValueError(
            f"`position` must be a `kmm.data.Position` or None. Received: position={position!r}"
        )


def _size(name, dataset, steps, schedule):
    """Returns the number of examples, or None where nothing depends on it."""
    size = int(dataset.cardinality())
    by_size = schedule is not None and schedule.needs_sizes
    if size == tf.data.INFINITE_CARDINALITY and (steps is None or by_size):
        if steps is not None:
            raise ValueError(
                f"`schedule` needs the size of `datasets['{name}']`, which is infinite. "
                f"Received: schedule={type(schedule).__name__}"
            )
        raise ValueError(
            f"`steps` must be given, for `datasets['{name}']` is infinite. Received: steps=None"
        )
    if size == tf.data.UNKNOWN_CARDINALITY and (steps is None or by_size):
        size = int(dataset.reduce(0, lambda count, _: count + 1))
    return size if size >= 0 else None


def _steps(steps, passes, schedule):
    """Returns the steps of an epoch: those that are given, or those that one pass takes."""
    if steps is None:
        return max(passes) if schedule is None else sum(passes)
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"`steps` must be a positive integer. Received: steps={steps}")
    return steps
