"""Length classes: a few lengths, chosen once, that all batches of a mixture are padded to.

A compiler such as XLA makes one program for each set of shapes. Padding each step to the longest of
its examples gives nearly every step shapes of its own. Here the examples of a task are sorted by
length into a few classes, each with one length to pad to, and a batch is of one class.

A joint step is of one class for all its tasks, so that there are as many programs as classes, not
as many as combinations of them. For that, a class holds the same share of each task: a task's
short examples are seen together with the short ones of the others, and as often as its long ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.mixing.task_batches import TaskBatches, fixed_batches, has_length

# On the eight tasks of the demo, batches of three classes have 0.85 times the positions of batches
# that are padded to their own longest example; two classes 0.98 times, one 1.46, four 0.80.
_CLASSES = 3
_GRID = 40  # the places between which the shares of classes are chosen
_PARTS = ("inputs", "targets")

Lengths = int | str | Mapping[str, Any] | None


class LengthClasses(NamedTuple):
    """The classes of one task.

    Attributes:
        of_example: int64 `(examples,)`, the class of each example, in the order of the data set.
        shapes: for each class the padded shape of every part of an example.
    """

    of_example: np.ndarray
    shapes: list[dict[str, list[int]]]


class TaskLengths(NamedTuple):
    """What is known of a task before its classes are made.

    Attributes:
        measured: int `(examples, axes)`, the lengths of all axes of variable size, rounded up to
            the lengths that the user allows.
        axes: part and number of each of these axes.
        spec: of an example.
        rows: examples of a batch; 0 with a token budget.
        token_budget: the most positions of a batch; 0 without.
    """

    measured: np.ndarray
    axes: list[tuple[str, int]]
    spec: Mapping[str, tf.TensorSpec]
    rows: int
    token_budget: int

    @property
    def weights(self) -> np.ndarray:
        """The share of a batch that each example takes, `(examples,)`."""
        if not self.token_budget:
            return np.ones(len(self.measured))
        return self.measured.sum(axis=1)

    def rows_at(self, longest: np.ndarray) -> int:
        """Returns the examples of a batch that is padded to some lengths, `(axes,)`."""
        return self.rows or max(1, self.token_budget // int(longest.sum()))


def parse_lengths(
    lengths: Lengths, names: Sequence[str], default: int = _CLASSES
) -> tuple[int | None, dict[str, dict]]:
    """Returns the number of classes, None for dynamic lengths, and the lengths that are allowed.

    Args:
        lengths: the argument of `kmm.data.mix`.
        names: the tasks.
        default: the number where the backend compiles for each shape and `lengths` is None.

    Returns:
        The number, and task -> part -> lengths in ascending order.

    Raises:
        ValueError: `lengths` is none of what `mix` takes.
    """
    if lengths is None:
        # JAX compiles every function for its shapes. TensorFlow does so only with `jit_compile`,
        # which is not known here; torch does not.
        lengths = default if keras.backend.backend() == "jax" else "dynamic"
    if isinstance(lengths, str) and lengths == "dynamic":
        return None, {}
    if not isinstance(lengths, Mapping):
        if isinstance(lengths, str):
            raise ValueError(
                "`lengths` must be 'dynamic', a number of length classes, or a dict from tasks to "
                f"lengths. Received: lengths={lengths!r}"
            )
        return positive_int("lengths", lengths), {}
    unknown = [name for name in lengths if name not in names]
    if unknown or not lengths:
        raise ValueError(
            f"`lengths` must have tasks of `datasets`: {', '.join(names)}. "
            f"Received: lengths={lengths}"
        )
    allowed = {name: _allowed(f"lengths[{name!r}]", value) for name, value in lengths.items()}
    longest = max(len(some) for parts in allowed.values() for some in parts.values())
    return longest, allowed


def _allowed(argument, value):
    if isinstance(value, Mapping):
        if not value or not set(value) <= set(_PARTS):
            raise ValueError(
                f"`{argument}` must have the keys 'inputs', 'targets'. Received: {value}"
            )
        return {part: _ascending(f"{argument}[{part!r}]", some) for part, some in value.items()}
    return dict.fromkeys(_PARTS, _ascending(argument, value))


def _ascending(argument, value):
    given = list(value) if isinstance(value, Sequence | np.ndarray) else [value]
    numbers = [positive_int(argument, number) for number in given]
    if not numbers or sorted(set(numbers)) != numbers:
        raise ValueError(
            f"`{argument}` must be a length, or lengths in ascending order. "
            f"Received: {argument}={value!r}"
        )
    return numbers


def measure(
    name: str,
    dataset: tf.data.Dataset,
    rows: int,
    token_budget: int,
    allowed: Mapping[str, list[int]],
) -> TaskLengths:
    """Reads the lengths of all examples of a task.

    Args:
        name: the task, for messages.
        dataset: its examples.
        rows: examples of a batch; 0 with a token budget.
        token_budget: the most positions of a batch; 0 without.
        allowed: part -> the lengths that its batches may have; others are free.

    Raises:
        ValueError: an example is longer than the greatest of them, or than the budget.
    """
    spec = dataset.element_spec
    axes = variable_axes(spec)

    def sizes(example):
        return tf.stack([tf.shape(example[part])[axis] for part, axis in axes])

    measured = np.concatenate([*dataset.map(sizes).batch(1024).as_numpy_iterator()]).astype(int)
    for column, (part, axis) in enumerate(axes):
        if part in allowed and has_length(spec[part]):
            measured[:, column] = _rounded_up(name, part, measured[:, column], allowed[part])
    # An axis of length 0 has no place in a model; `fill_empty_batches` there expects the same.
    measured = np.maximum(measured, 1)
    totals = measured.sum(axis=1)
    if token_budget and totals.max() > token_budget:
        raise ValueError(
            f"`token_budget` must be at least the padded length of every example of "
            f"`datasets['{name}']`. Received: token_budget={token_budget}, but example "
            f"{int(totals.argmax())} has a padded length of {totals.max()}"
        )
    return TaskLengths(measured, axes, spec, rows, token_budget)


def variable_axes(spec: Mapping[str, tf.TensorSpec]) -> list[tuple[str, int]]:
    """Returns part and number of each axis of an example that varies in size."""
    return [
        (part, axis)
        for part in _PARTS
        for axis, size in enumerate(spec[part].shape.as_list())
        if size is None
    ]


def _rounded_up(name, part, lengths, allowed):
    place = np.searchsorted(allowed, lengths)
    if place.max() == len(allowed):
        raise ValueError(
            f"`lengths[{name!r}]` must hold every example of `datasets['{name}']`: choose a greater "
            "length, or a `max_length` of the preprocessor and `on_long` of `kmm.data.encode`. "
            f"Received: lengths={allowed}, but example {int(lengths.argmax())} has {part} of length "
            f"{lengths.max()}"
        )
    return np.array(allowed)[place]


def classify(tasks: Mapping[str, TaskLengths], num_classes: int) -> dict[str, LengthClasses]:
    """Sorts the examples of several tasks into classes that hold the same share of each task.

    The shares are those with the least padding, by dynamic programming over a grid of them.

    Args:
        tasks: task -> its lengths; each has an axis of variable size.
        num_classes: the most classes.

    Returns:
        task -> its classes, as many for each.
    """
    grid = min(_GRID, *(len(task.measured) for task in tasks.values()))
    ranked = {}
    cost = np.zeros((grid, grid + 1))  # of a class from one place of the grid to another
    for name, task in tasks.items():
        order = np.argsort(task.measured.sum(axis=1), kind="stable")
        cuts = _cuts(task.weights[order], grid)
        ranked[name] = order, cuts
        cells = np.array([task.measured[order[a:b]].max(axis=0) for a, b in zip(cuts, cuts[1:])])
        # The positions that a batch has on average if one class holds the cells from i to j.
        rows = task.rows or task.token_budget / task.measured.sum(axis=1).mean()
        for i in range(grid):
            longest = np.maximum.accumulate(cells[i:], axis=0).sum(axis=1)
            share = (np.array(cuts[i + 1 :]) - cuts[i]) / len(order)
            cost[i, i + 1 :] += rows * share * longest
    bounds = _cheapest(cost, min(num_classes, grid))
    return {
        name: _classes(task, *ranked[name], bounds) for name, task in tasks.items()
    }


def _cuts(weights, grid):
    """Returns where the examples, sorted, are cut into cells of equal weight, none empty."""
    total = np.cumsum(weights)
    cuts = np.searchsorted(total, total[-1] * np.arange(grid + 1) / grid)
    cuts[-1] = len(weights)
    cuts = np.maximum.accumulate(np.maximum(cuts, np.arange(grid + 1)))
    # From the end, so that the last cells keep an example each.
    return np.minimum(cuts, len(weights) - np.arange(grid, -1, -1)).tolist()


def _cheapest(cost, num_classes):
    """Returns the bounds of up to `num_classes` classes with the least total cost."""
    grid = len(cost)
    best = np.full(grid + 1, np.inf)
    best[0] = 0.0
    origins = []
    for _ in range(num_classes):
        through = best[:-1, None] + np.where(cost > 0, cost, np.inf)
        origins.append(through.argmin(axis=0))
        best = through.min(axis=0)
        best[0] = np.inf
    bounds = [grid]
    for origin in reversed(origins):
        bounds.append(int(origin[bounds[-1]]))
    return bounds[::-1]


def _classes(task, order, cuts, bounds):
    of_example = np.zeros(len(order), "int64")
    shapes = []
    for number, (start, stop) in enumerate(zip(bounds, bounds[1:])):
        members = order[cuts[start] : cuts[stop]]
        of_example[members] = number
        longest = task.measured[members].max(axis=0)
        shape = {part: spec.shape.as_list() for part, spec in task.spec.items()}
        for (part, axis), length in zip(task.axes, longest.tolist()):
            shape[part][axis] = length
        shapes.append(shape)
    return LengthClasses(of_example, shapes)


def tasks_to_measure(datasets: Mapping[str, tf.data.Dataset], lengths: Lengths) -> list[str]:
    """Returns the tasks that get length classes: those with an axis of variable size.

    Raises:
        ValueError: one is infinite, and `lengths` was given.
    """
    tasks = []
    for name, dataset in datasets.items():
        if not variable_axes(dataset.element_spec):
            continue
        if dataset.cardinality() != tf.data.INFINITE_CARDINALITY:
            tasks.append(name)
        elif lengths is not None:
            raise ValueError(
                f"`lengths` needs all lengths of `datasets['{name}']`, which is infinite. "
                f"Received: lengths={lengths}"
            )
    return tasks


def classed_batches(
    datasets: Mapping[str, tf.data.Dataset],
    tasks: Mapping[str, TaskLengths],
    num_classes: int,
    buffers: Mapping[str, int | None],
    seed: int,
    joint: bool,
) -> tuple[dict[str, TaskBatches], int]:
    """Returns the batches of tasks with length classes.

    Args:
        datasets: task -> examples.
        tasks: task -> its lengths; each has an axis of variable size.
        num_classes: the most classes.
        buffers: task -> the most examples that shuffling holds in memory, None for no shuffling.
        seed: of the order of classes.
        joint: whether each step has a batch of each task. Their k-th batches are then of one class.

    Returns:
        task -> batches, and the number of different shapes of a step that they lead to.
    """
    groups = [list(tasks)] if joint and tasks else [[name] for name in tasks]
    made, num_shapes = {}, 0
    for group in groups:
        classes = classify({name: tasks[name] for name in group}, num_classes)
        parts = {
            name: [
                _class_batches(datasets[name], tasks[name], classes[name], k, buffers[name], joint)
                for k in range(len(classes[name].shapes))
            ]
            for name in group
        }
        # The task that needs the most steps decides how often a pass is of a class.
        steps = [max(part.num_batches for part in of_class) for of_class in zip(*parts.values())]
        sequence = _ClassSequence(steps, seed)
        for name, of_task in parts.items():
            made[name] = TaskBatches(
                _start_at([part.start_at for part in of_task], sequence),
                sum(steps),
                len(classes[name].of_example),
                {"rows": [part.rows for part in of_task], "lengths": classes[name].shapes},
                _general_spec(of_task),
            )
        num_shapes += len({str([c.shapes[k] for c in classes.values()]) for k in range(len(steps))})
    return made, num_shapes


def ordered_batches(
    dataset: tf.data.Dataset, task: TaskLengths, num_classes: int
) -> tuple[tf.data.Dataset, int]:
    """Returns batches of `task.rows` examples in the order of the data set.

    Args:
        dataset: the examples.
        task: its lengths.
        num_classes: the most lengths that a part of a batch can have.

    Returns:
        The batches, each padded to the first class that holds it, and the number of their shapes.
    """
    shapes = classify({"": task}, num_classes)[""].shapes
    columns = [[shape[part][axis] for part, axis in task.axes] for shape in shapes]
    # A class has short sums of lengths, and may still be the longest in one of them.
    columns = np.maximum.accumulate(columns, axis=0)
    whole = len(task.measured) // task.rows
    num_shapes = len(np.unique(columns, axis=0)) * bool(whole) + bool(len(task.measured) % task.rows)

    def pad(batch):
        sizes = tf.stack([tf.shape(batch[part])[axis + 1] for part, axis in task.axes])
        fits = tf.reduce_all(sizes <= tf.constant(columns, "int32"), axis=1)
        target = tf.constant(columns, "int32")[tf.argmax(fits)]
        padded = dict(batch)
        for column, (part, axis) in enumerate(task.axes):
            x = padded[part]
            missing = tf.one_hot(axis + 1, x.shape.rank, target[column] - sizes[column], 0)
            padded[part] = tf.pad(x, tf.stack([tf.zeros_like(missing), missing], axis=1))
            shape = x.shape.as_list()
            shape[axis + 1] = columns[0][column] if len(columns) == 1 else None
            padded[part] = tf.ensure_shape(padded[part], shape)
        return padded

    return dataset.padded_batch(task.rows).map(pad), num_shapes


def _class_batches(dataset, task, classes, number, buffer, in_every_step):
    """Returns the batches of one class of a task."""
    shape = classes.shapes[number]
    longest = np.array([shape[part][axis] for part, axis in task.axes])
    size = int((classes.of_example == number).sum())
    members = _members(dataset, classes, number)
    buffer = buffer and min(buffer, size)
    return fixed_batches(members, task.rows_at(longest), size, buffer, in_every_step, shape)


def _members(dataset, classes, number):
    """Returns the examples of a class.

    The class of an example follows from its place in the data set: examples of one length may be of
    two classes.
    """
    if len(classes.shapes) == 1:
        return dataset
    of_example = tf.constant(classes.of_example)
    numbered = dataset.enumerate().filter(lambda index, _: of_example[index] == number)
    return numbered.map(lambda _, example: example)


def _general_spec(parts):
    """Returns the spec that the batches of all classes have."""
    spec = dict(parts[0].spec)
    for part in parts[1:]:
        for key, value in part.spec.items():
            shape = spec[key].shape.most_specific_compatible_shape(value.shape)
            spec[key] = tf.TensorSpec(shape, value.dtype)
    return spec


class _ClassSequence:
    """The classes of steps: a pass has each as often as it needs, in an order of its own.

    Args:
        steps: steps of each class in a pass.
        seed: of the order.
    """

    def __init__(self, steps: list[int], seed: int):
        self._classes = np.repeat(np.arange(len(steps)), steps)
        self._steps = tf.constant(steps, "int64")
        self._seed = seed

    def _one_pass(self, order, number):
        seed = tf.stack([tf.constant(self._seed, "int64"), order + number])
        return tf.random.experimental.stateless_shuffle(tf.constant(self._classes, "int64"), seed)

    def before(self, order: Any, number: Any) -> Any:
        """Returns how many steps of each class come before a step, int64 `(classes,)`."""
        size = len(self._classes)
        begun = self._one_pass(order, number // size)[: number % size]
        counts = tf.math.bincount(
            tf.cast(begun, "int32"), minlength=len(self._steps), dtype="int64"
        )
        return number // size * self._steps + counts

    def dataset(self, order: Any, number: Any) -> tf.data.Dataset:
        """Returns the classes of the steps from a step on, without end."""
        size = len(self._classes)
        passes = tf.data.Dataset.counter(number // size)
        classes = passes.flat_map(
            lambda index: tf.data.Dataset.from_tensor_slices(self._one_pass(order, index))
        )
        return classes.skip(number % size)


def _start_at(starts: list[Callable], sequence: _ClassSequence) -> Callable:
    if len(starts) == 1:
        return starts[0]

    def start_at(pass_seed, number, order):
        counts = sequence.before(order, number)
        streams = [start(pass_seed, counts[k], order) for k, start in enumerate(starts)]
        return tf.data.Dataset.choose_from_datasets(streams, sequence.dataset(order, number))

    return start_at
