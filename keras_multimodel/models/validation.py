"""What is checked before any long work starts."""

import inspect
import itertools

import numpy as np

from keras_multimodel.models.task import Task
from keras_multimodel.ops.first_look import first_look


def check_tasks(tasks: list, hidden_dim: int) -> None:
    """Checks the tasks of a model.

    Args:
        tasks: the tasks.
        hidden_dim: the model's.

    Raises:
        ValueError: there is none, one is no `Task`, a name comes twice, or a modality net is of
            another `hidden_dim`.
    """
    if not isinstance(hidden_dim, int) or hidden_dim < 1:
        raise ValueError(
            f"`hidden_dim` must be a positive integer. Received: hidden_dim={hidden_dim}"
        )
    if not tasks:
        raise ValueError(f"`tasks` must hold at least one task. Received: tasks={tasks}")
    for task in tasks:
        if not isinstance(task, Task):
            raise ValueError(f"`tasks` must hold `Task` objects only. Received: {task!r}")
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`tasks` must have different names. Received twice: {twice}")
    for task in tasks:
        for argument, net in (("inputs", task.inputs), ("targets", task.targets)):
            if net.hidden_dim != hidden_dim:
                raise ValueError(
                    f"`{argument}` of task {task.name!r} must have the model's `hidden_dim`. "
                    f"Received: {argument}.hidden_dim={net.hidden_dim}, hidden_dim={hidden_dim}"
                )


def check_stacks(argument: str, stacks, names: list[str]) -> list[list[str]]:
    """Checks stacks of tasks.

    Args:
        argument: their name, for messages.
        stacks: lists of names.
        names: the names to distribute.

    Returns:
        The stacks as lists.

    Raises:
        ValueError: they do not hold each of `names` exactly once.
    """
    stacks = [list(stack) for stack in stacks]
    if sorted(itertools.chain(*stacks)) != sorted(names) or not all(stacks):
        raise ValueError(
            f"`{argument}` must hold each of {names} exactly once. Received: {argument}={stacks}"
        )
    return stacks


def check_inputs(tasks: dict[str, Task], x) -> None:
    """Checks keys, ranks and dtypes of a batch of inputs: arrays, tensors or specs of them.

    Args:
        tasks: the model's tasks.
        x: dict of dicts.

    Raises:
        ValueError: naming the task, the key and what was received.
    """
    _check_keys("x", x, tasks)
    for name, task in tasks.items():
        _check_keys(f"x[{name!r}]", x[name], task.input_names)
        nets = {"inputs": task.inputs, "targets": task.targets}
        for key in task.input_names:
            _check_array(f"x[{name!r}][{key!r}]", x[name][key], nets[key])


def check_targets(tasks: dict[str, Task], y) -> None:
    """Checks keys, ranks and dtypes of a batch of targets.

    Args:
        tasks: the model's tasks.
        y: dict.

    Raises:
        ValueError: naming the task and what was received.
    """
    _check_keys("y", y, tasks)
    for name, task in tasks.items():
        _check_array(f"y[{name!r}]", y[name], task.targets)


def check_values(tasks: dict[str, Task], x, y=None) -> None:
    """Checks that ids lie within their vocabulary and labels within their classes, for arrays whose
    values can be read.

    Args:
        tasks: the model's tasks.
        x: dict of dicts of arrays.
        y: dict of arrays, or None.

    Raises:
        ValueError: naming the task, the key and the first value that does not.
    """
    for name, task in tasks.items():
        for key in task.input_names:
            net = {"inputs": task.inputs, "targets": task.targets}[key]
            _check_range(f"x[{name!r}][{key!r}]", x[name][key], net)
        if y is not None:
            _check_range(f"y[{name!r}]", y[name], task.targets)


def check_data(tasks: dict[str, Task], x, y=None, argument: str = "x"):
    """Checks what `fit` and `evaluate` are given, by its first batch.

    Args:
        tasks: the model's tasks.
        x: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator of batches, or a dict of
            arrays.
        y: targets, if `x` is a dict of arrays.
        argument: name of `x` for messages.

    Returns:
        `x`, or if it is a generator one that still yields the first batch.

    Raises:
        ValueError: there is no batch, or the first one does not fit the tasks.
    """
    if hasattr(x, "element_spec"):
        _check_batch(tasks, x.element_spec)
        if not hasattr(x, "as_numpy_iterator"):
            return x  # a distributed data set: its values lie on several devices
        with first_look():
            first = next(iter(x.take(1).as_numpy_iterator()), None)
    elif isinstance(x, dict):
        first = (x, y) if y is not None else (x,)
        _check_examples(argument, x, y)
    elif inspect.isgenerator(x):
        first = next(x, None)
        x = itertools.chain([first], x) if first is not None else x
        x = (batch for batch in x)
    elif hasattr(x, "__getitem__") and hasattr(x, "__len__") and hasattr(x, "workers"):
        first = x[0] if len(x) else None
    else:
        _check_keys(argument, x, tasks)
    if first is None:
        raise ValueError(f"`{argument}` must hold at least one batch. Received: an empty data set")
    _check_batch(tasks, first)
    check_values(tasks, *first[:2])
    return x


def check_validation_data(tasks: dict[str, Task], data):
    """Checks what `fit` is given as `validation_data`: as `check_data`, or a tuple of arrays."""
    if isinstance(data, tuple):
        check_data(tasks, *data[:2], argument="validation_data")
        return data
    return check_data(tasks, data, argument="validation_data")


def _check_examples(argument, x, y):
    sizes = {}
    for name, arrays in [*x.items(), *(y or {}).items()]:
        for array in arrays.values() if isinstance(arrays, dict) else [arrays]:
            sizes[name] = len(array) if hasattr(array, "__len__") else 0
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise ValueError(
            f"`{argument}` must hold examples of every task. Received: none of {empty}"
        )


def _check_batch(tasks, batch):
    if not isinstance(batch, tuple):
        batch = (batch,)
    check_inputs(tasks, batch[0])
    if len(batch) > 1 and batch[1] is not None:
        check_targets(tasks, batch[1])


def _check_keys(argument, value, expected):
    if not isinstance(value, dict):
        raise ValueError(
            f"`{argument}` must be a dict with the keys {list(expected)}. "
            f"Received: {type(value).__name__}"
        )
    missing = [key for key in expected if key not in value]
    unknown = [key for key in value if key not in expected]
    if missing or unknown:
        raise ValueError(
            f"`{argument}` must have the keys {list(expected)}. "
            f"Received: {list(value)}; missing: {missing}, unknown: {unknown}"
        )


def _check_array(argument, value, net):
    shape = getattr(value, "shape", None)
    if shape is None:
        raise ValueError(f"`{argument}` must be an array. Received: {type(value).__name__}")
    shape = tuple(shape)
    expected = net.example_shape
    fits = len(shape) == len(expected) + 1 and all(
        a is None or b is None or a == b for a, b in zip(shape[1:], expected)
    )
    if not fits:
        raise ValueError(
            f"`{argument}` must be of shape {('batch', *expected)}, None being any size. "
            f"Received: shape={shape}"
        )
    dtype = _dtype_name(value)
    if net.example_dtype.startswith("int") and not dtype.lstrip("u").startswith("int"):
        raise ValueError(f"`{argument}` must be of an integer dtype. Received: dtype={dtype}")
    if not dtype.lstrip("ub").startswith(("int", "float", "bfloat", "float")):
        raise ValueError(f"`{argument}` must be of a numeric dtype. Received: dtype={dtype}")


def _dtype_name(value) -> str:
    dtype = value.dtype
    return getattr(dtype, "name", None) or str(dtype).removeprefix("torch.")


def _check_range(argument, value, net):
    size = getattr(net, "vocabulary_size", None) or getattr(net, "num_classes", None)
    if size is None:
        return
    value = np.asarray(value)
    wrong = value[(value < 0) | (value >= size)]
    if wrong.size:
        raise ValueError(
            f"`{argument}` must hold ids from 0 to {size - 1}. Received: {int(wrong.ravel()[0])}"
        )
