"""What is checked before any long work starts."""

import collections
import contextlib
import inspect
import itertools
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import numpy as np

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.models.task import Task, nets_of_batch


def check_tasks(tasks: list, hidden_dim: int) -> int:
    """Checks the tasks of a model.

    Args:
        tasks: the tasks.
        hidden_dim: the model's width.

    Returns:
        `hidden_dim` as an `int`.

    Raises:
        ValueError: there is no task, one is not a `Task`, two have one name, two would share a key
            in the logs, or a modality net has another `hidden_dim`.
    """
    hidden_dim = positive_int("hidden_dim", hidden_dim)
    if not tasks:
        raise ValueError(f"`tasks` must hold at least one task. Received: tasks={tasks}")
    for task in tasks:
        if not isinstance(task, Task):
            raise ValueError(f"`tasks` must hold `Task` objects only. Received: {task!r}")
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`tasks` must have different names. Received twice: {twice}")
    check_log_keys({task.name: task.metrics() for task in tasks})
    for task in tasks:
        for part, net in (*task.parts.items(), ("targets", task.targets)):
            argument = f"inputs[{part!r}]" if task.has_parts and part != "targets" else part
            if net.hidden_dim != hidden_dim:
                raise ValueError(
                    f"`{argument}` of task {task.name!r} must have the model's `hidden_dim`. "
                    f"Received: {argument}.hidden_dim={net.hidden_dim}, hidden_dim={hidden_dim}"
                )
    _check_rows(tasks)
    return hidden_dim


def _check_rows(tasks):
    """Checks that tasks with the same rows read the same, and that no task is called like them."""
    readers: dict[str, Task] = {}
    for task in tasks:
        first = readers.setdefault(task.rows, task)
        same = list(task.parts) == list(first.parts) and all(
            net is first.parts[part] for part, net in task.parts.items()
        )
        if not same or task.has_parts != first.has_parts:
            raise ValueError(
                f"`inputs` of tasks with the same `rows` must be the same nets under the same "
                f"names. Received: rows={task.rows!r} of tasks {first.name!r} and {task.name!r}"
            )
    for task in tasks:
        if task.name in readers and task.rows != task.name:
            raise ValueError(
                f"`rows` must not be the name of a task with rows of another name. "
                f"Received: rows={task.name!r}, and task {task.name!r} has rows={task.rows!r}"
            )


def check_log_keys(metrics: dict[str, Any]) -> None:
    """Checks that every number in the logs has a key of its own.

    Keras joins the name of a task and that of its metric: `top_5_accuracy` of task `a` and
    `accuracy` of a task `a_top_5` would be one key.

    Args:
        metrics: the metrics of every task: one, or a list.

    Raises:
        ValueError: two numbers have one key.
    """
    owners = collections.defaultdict(list)
    for task, given in metrics.items():
        given = given if isinstance(given, list | tuple) else [given]
        # `<task>_loss`, and with a task weighting `<task>_weight`, are keys too.
        names = {getattr(metric, "name", metric) for metric in given} | {"loss", "weight"}
        for name in names:
            if isinstance(name, str):  # Keras names the other forms, such as functions, later
                owners[f"{task}_{name}"].append(task)
    shared = {key: tasks for key, tasks in owners.items() if len(tasks) > 1}
    if shared:
        key, tasks = next(iter(shared.items()))
        raise ValueError(
            f"`tasks` must have names that differ in the logs, where `<task>_<metric>` is a key. "
            f"Received: tasks {tasks}, which both log {key!r}"
        )


def check_inputs(tasks: dict[str, Task], x: Any) -> None:
    """Checks keys, ranks and dtypes of a batch of inputs: arrays, tensors or specs of them.

    Args:
        tasks: the model's tasks.
        x: dict of dicts.

    Raises:
        ValueError: naming the task, the key and what was received.
    """
    nets = nets_of_batch(tasks.values())
    _check_keys("x", x, nets)
    for name in nets:
        _check_keys(f"x[{name!r}]", x[name], nets[name])
    for part in _parts(tasks, x):
        _check_array(*part)


def check_targets(tasks: dict[str, Task], y: Any, any_form: Collection[str] = ()) -> None:
    """Checks keys, ranks and dtypes of a batch of targets.

    Args:
        tasks: the model's tasks.
        y: dict.
        any_form: tasks with a loss of the user, which may take targets of another form.

    Raises:
        ValueError: naming the task and what was received.
    """
    _check_keys("y", y, tasks)
    for name, task in tasks.items():
        if y[name] is None or name not in any_form:
            _check_array(f"y[{name!r}]", y[name], task.targets)


def check_values(tasks: dict[str, Task], x: dict, y: dict | None = None) -> None:
    """Checks that ids are in their vocabulary, labels among their classes, and numbers finite.

    A class of -1 is a gap in the targets, and so is a NaN where `ModalityNet.nan_is_gap` says so.

    Args:
        tasks: the model's tasks.
        x: dict of dicts of arrays.
        y: dict of arrays, or None.

    Raises:
        ValueError: naming the task, the key, and the first wrong value.
    """
    for argument, value, net in _parts(tasks, x, y):
        value = np.asarray(value)
        if keras.backend.is_float_dtype(value.dtype.name):
            with np.errstate(over="ignore"):  # in float64, 1e300 is finite
                numbers = value.astype("float32")
            if net.nan_is_gap and np.isinf(numbers).any():
                wrong = value[np.isinf(numbers)]
                raise ValueError(_infinite_message(argument) + str(wrong[0]))
            broken = np.argwhere(~np.isfinite(numbers))
            if broken.size and not net.nan_is_gap:
                raise ValueError(_finite_message(argument) + str(int(broken[0, 0])))
        size = net.num_ids
        if size is not None:
            wrong = value[(value < _least(argument, net)) | (value >= size)]
            if wrong.size:
                raise ValueError(_range_message(argument, size) + str(int(wrong.ravel()[0])))


def check_data(tasks: dict[str, Task], x: Any, y: Any = None, argument: str = "x") -> Any:
    """Checks the data of `fit` and `evaluate` as far as this takes nothing from it.

    Of a `tf.data.Dataset` the structure is checked at once, and the values are checked as each
    batch passes: reading a first batch here would move a shuffled or stateful pipeline. Arrays are
    checked as a whole, of a generator or a `keras.utils.PyDataset` the first batch. What else Keras
    takes, such as a torch `DataLoader`, is checked when the model is called.

    Args:
        tasks: the model's tasks.
        x: what `fit` was given.
        y: targets, if `x` is a dict of arrays.
        argument: name of `x`, for messages.

    Returns:
        The data to train on, in place of `x`.

    Raises:
        ValueError: there is no batch, or the data does not fit the tasks.
    """
    if hasattr(x, "element_spec"):
        return _checked_dataset(tasks, x, argument, targets=True)
    if isinstance(x, dict):
        # All of it, since it is in memory: a bad id of the last batch would cost an epoch.
        _check_batch(tasks, (x, y), targets=True)
        _check_examples(argument, x, y)
        check_values(tasks, x, y)
        return x
    first: Any = None
    if inspect.isgenerator(x):
        first = next(x, None)
        # A generator again: Keras does not take a chain of iterators.
        x = (batch for batch in itertools.chain([first], x)) if first is not None else x
    elif isinstance(x, keras.utils.PyDataset):
        first = x[0] if len(x) else None
    elif x is None or isinstance(x, str | list | tuple) or hasattr(x, "shape"):
        return _check_keys(argument, x, tasks)
    else:
        return x
    if first is None:
        raise ValueError(EMPTY.format(argument))
    _check_batch(tasks, first, targets=True)
    check_values(tasks, *first[:2])
    return x


def check_validation_data(tasks: dict[str, Task], data: Any) -> Any:
    """Checks the `validation_data` of `fit`: as `check_data`, or a tuple of arrays."""
    if isinstance(data, tuple):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        check_data(tasks, x, y, "validation_data")
        return data
    return check_data(tasks, data, argument="validation_data")


def check_predict_data(tasks: dict[str, Task], x: Any) -> Any:
    """Checks the data of `predict`, which needs no targets, and returns what to use instead."""
    if hasattr(x, "element_spec"):
        return _checked_dataset(tasks, x, "x", targets=False)
    if isinstance(x, dict):
        _check_batch(tasks, (x,), targets=False)
        check_values(tasks, x)
    return x


@contextlib.contextmanager
def value_errors(step: Callable[[], str] = str) -> Iterator[None]:
    """Raises what `check_data` finds in a batch of a `tf.data.Dataset` as a ValueError.

    Args:
        step: tells which step is read, for the message.

    Raises:
        ValueError: the data did not fit.
    """
    try:
        yield
    except Exception as error:
        # TensorFlow wraps the message in its own, with the name of the operation that failed.
        found = re.search(
            r"assertion failed: \[(`[^\n]*?Received: [^\]\n]*)\] \[([^\]]*)\]", str(error)
        )
        if found is None or isinstance(error, ValueError):
            raise
        # TensorFlow prints strings with their quotes escaped.
        where = f", in the batch of {step()}" if step() else ""
        raise ValueError((found[1] + found[2]).replace("\\'", "'") + where) from None


EMPTY = "`{}` must hold at least one batch. Received: an empty data set"


def _checked_dataset(tasks, dataset, argument, targets):
    """Returns a `tf.data.Dataset` that checks the values of each batch when it is read."""
    if not hasattr(dataset, "as_numpy_iterator"):
        return dataset  # already distributed: its values are on several devices
    import tensorflow as tf

    _check_batch(tasks, dataset.element_spec, targets)
    if int(dataset.cardinality()) == 0:
        raise ValueError(EMPTY.format(argument))

    def check(*batch):
        # A stateful operation: TensorFlow runs a function without one in parallel, and reads ahead.
        tf.random.uniform(())
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        for name, value, net in _parts(tasks, x, y if targets else None):
            _assert_values(tf, name, value, net)
        return batch[0] if len(batch) == 1 else batch

    return dataset.map(check, name="check_values")


def _assert_values(tf, argument, value, net):
    # Runs in the graph of the data set: `value_errors` finds the messages again.
    size = net.num_ids
    if size is not None:
        ids = tf.cast(tf.reshape(value, [-1]), "int64")
        wrong = tf.logical_or(ids < _least(argument, net), ids >= size)
        first = tf.concat([tf.boolean_mask(ids, wrong), [0]], axis=0)[0]
        message = _range_message(argument, size)
        tf.debugging.Assert(tf.logical_not(tf.reduce_any(wrong)), [message, first])
    if net.nan_is_gap:
        infinite = tf.reduce_any(tf.math.is_inf(tf.cast(value, "float32")))
        tf.debugging.Assert(tf.logical_not(infinite), [_infinite_message(argument), "inf"])
    elif value.dtype.is_floating:
        finite = tf.math.is_finite(tf.cast(value, "float32"))
        row = tf.concat([tf.where(tf.logical_not(finite))[:, 0], [0]], axis=0)[0]
        tf.debugging.Assert(tf.reduce_all(finite), [_finite_message(argument), row])
    if None in value.shape[1:]:
        shape = tf.shape(value)
        message = _shape_message(argument, net)
        tf.debugging.Assert(tf.reduce_all(shape[1:] > 0), [message, shape], summarize=9)


def _parts(tasks, x, y=None):
    """Yields name for messages, value and modality net of everything in a batch."""
    for name, nets in nets_of_batch(tasks.values()).items():
        for key, net in nets.items():
            yield f"x[{name!r}][{key!r}]", x[name][key], net
    if y is not None:
        for name, task in tasks.items():
            yield f"y[{name!r}]", y[name], task.targets


def _least(argument, net):
    """Returns the least id that an array may hold: -1 is a class that is missing, as a target."""
    return -1 if argument.startswith("y") and not net.autoregressive else 0


def _infinite_message(argument):
    return f"`{argument}` must hold finite numbers, or NaN for a gap. Received: "


def _range_message(argument, size):
    return f"`{argument}` must hold ids from 0 to {size - 1}. Received: "


def _finite_message(argument):
    return f"`{argument}` must hold finite numbers. Received: NaN or infinity in row "


def _shape_message(argument, net):
    expected = ("batch", *net.example_shape)
    return f"`{argument}` must be of shape {expected}, None being any size from 1. Received: shape="


def _check_examples(argument, x, y):
    empty = [name for name in x if 0 in map(len, keras.tree.flatten((x[name], y.get(name, []))))]
    if empty:
        expected = f"`{argument}` must hold examples of every task"
        raise ValueError(f"{expected}. Received: none of {empty}")


def _check_batch(tasks, batch, targets):
    batch = batch if isinstance(batch, tuple) else (batch,)
    check_inputs(tasks, batch[0])
    if targets:
        check_targets(tasks, batch[1] if len(batch) > 1 else None)


def _check_keys(argument, value, expected):
    if not isinstance(value, dict):
        raise ValueError(
            f"`{argument}` must be a dict with the keys {list(expected)}. Received: {_kind(value)}"
        )
    missing = [key for key in expected if key not in value]
    unknown = [key for key in value if key not in expected]
    if missing or unknown:
        hint = ""
        if argument in ("x", "y") and missing and not unknown:
            hint = ". To train some tasks alone, see `MultiModel.task_model`"
        elif argument == "x" and sorted(value) == ["inputs", "targets"]:
            hint = ". `kmm.data.mix({task: dataset})` makes batches of tasks"
        raise ValueError(
            f"`{argument}` must have the keys {list(expected)}. "
            f"Received: {list(value)}; missing: {missing}, unknown: {unknown}{hint}"
        )


def _check_array(argument, value, net):
    shape = getattr(value, "shape", None)
    if shape is None:
        raise ValueError(f"`{argument}` must be an array. Received: {_kind(value)}")
    dtype = getattr(value.dtype, "name", None) or str(value.dtype).removeprefix("torch.")
    # Rows of different lengths are a ragged tensor in TensorFlow, and objects in NumPy.
    if hasattr(value, "ragged_rank") or dtype == "object":
        raise ValueError(
            f"`{argument}` must be an array of rows of one length, shorter ones padded with zeros. "
            f"Received: rows of different lengths ({type(value).__name__})"
        )
    if getattr(shape, "rank", 0) is None:  # a `tf.TensorShape` that tells nothing
        raise ValueError(f"{_shape_message(argument, net)}{shape}")
    shape, expected = tuple(shape), net.example_shape
    if len(shape) != len(expected) + 1 or not all(
        a is None or (a > 0 if b is None else a == b) for a, b in zip(shape[1:], expected)
    ):
        raise ValueError(f"{_shape_message(argument, net)}{shape}")
    if net.example_dtype == "bool":
        if dtype != "bool":
            raise ValueError(f"`{argument}` must be of the dtype bool. Received: dtype={dtype}")
        return
    if net.example_dtype.startswith("int") and not dtype.lstrip("u").startswith("int"):
        raise ValueError(f"`{argument}` must be of an integer dtype. Received: dtype={dtype}")
    if not dtype.lstrip("ub").startswith(("int", "float")):  # unsigned, bfloat16; not bool
        raise ValueError(f"`{argument}` must be of a numeric dtype. Received: dtype={dtype}")


def _kind(value):
    return "None" if value is None else type(value).__name__
