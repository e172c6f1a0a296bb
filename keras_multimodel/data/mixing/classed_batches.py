"""Batches whose examples are of one length class; see `lengths.py`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_multimodel.data.mixing.lengths import (
    classify,
    measure,
    parse_lengths,
)
from keras_multimodel.data.mixing.task_batches import TaskBatches, fixed_batches, variable_axes


def classed_batches(
    datasets: Mapping[str, tf.data.Dataset],
    lengths: int | str | Mapping[str, Any],
    rows: Mapping[str, int],
    budgets: Mapping[str, int],
    buffers: Mapping[str, int | None],
    seed: int,
    joint: bool,
) -> tuple[dict[str, TaskBatches], int]:
    """Returns the batches of the tasks that have axes of variable size, in length classes.

    Args:
        datasets: task -> examples.
        lengths: the argument of `kmm.data.mix`, not `"dynamic"`.
        rows: task -> examples of a batch, of tasks without a token budget.
        budgets: task -> the most positions of a batch, of the others.
        buffers: task -> the most examples that shuffling holds in memory, None for no shuffling.
        seed: of the order of classes.
        joint: whether each step has a batch of each task. Their k-th batches are then of one class.

    Returns:
        task -> batches, and the number of different shapes of a step that they lead to.

    Raises:
        ValueError: `lengths` is not valid, or too small for an example.
    """
    num_classes, allowed = parse_lengths(
        lengths, {name: sorted(data.element_spec) for name, data in datasets.items()}
    )
    tasks = {
        name: measure(name, data, rows.get(name, 0), budgets.get(name, 0), allowed.get(name, {}))
        for name, data in datasets.items()
        if variable_axes(data.element_spec)
    }
    made, num_shapes = {}, 0
    for group in [list(tasks)] if joint and tasks else [[name] for name in tasks]:
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
        sequence = _ClassSequence(steps, seed, shuffle=None not in buffers.values())
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
    name: str, dataset: tf.data.Dataset, lengths: int | str | Mapping[str, Any], rows: int
) -> tuple[tf.data.Dataset, int, int]:
    """Returns batches in the order of the data set.

    Args:
        name: the task, for messages.
        dataset: the examples; they have an axis of variable size.
        lengths: the argument of `kmm.data.batch`, not `"dynamic"`.
        rows: examples of a batch; the last one may have fewer.

    Returns:
        The batches, each padded to the first class that holds it; how many there are; and the
        number of their shapes.

    Raises:
        ValueError: `lengths` is not valid, or too small for an example.
    """
    num_classes, allowed = parse_lengths(lengths, {name: sorted(dataset.element_spec)})
    task = measure(name, dataset, rows, 0, allowed.get(name, {}))
    shapes = classify({"": task}, num_classes)[""].shapes
    columns = [[shape[part][axis] for part, axis in task.axes] for shape in shapes]
    # A class has short sums of lengths, and may still be the longest in one of them.
    columns = np.maximum.accumulate(columns, axis=0)
    whole, rest = divmod(len(task.measured), rows)
    num_shapes = len(np.unique(columns, axis=0)) * bool(whole) + bool(rest)

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

    return dataset.padded_batch(rows).map(pad), whole + bool(rest), num_shapes


def _class_batches(dataset, task, classes, number, buffer, in_every_step):
    """Returns the batches of one class of a task."""
    shape = classes.shapes[number]
    longest = np.array([shape[part][axis] for part, axis in task.axes])
    if task.token_budget and longest.sum() > task.token_budget:
        raise ValueError(
            "`token_budget` must hold the longest inputs and the longest targets of a length class "
            "together: choose more classes, a greater budget, or lengths='dynamic'. "
            f"Received: token_budget={task.token_budget}, and a class of lengths {longest.tolist()}"
        )
    size = int((classes.of_example == number).sum())
    members = _members(dataset, classes, number)
    # The classes share the memory of the task.
    buffer = buffer and min(size, max(1, buffer * size // len(classes.of_example)))
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
        shuffle: whether epochs have orders of their own; if not, they all begin with the same one.
    """

    def __init__(self, steps: list[int], seed: int, shuffle: bool):
        self._classes = np.repeat(np.arange(len(steps)), steps)
        self._steps = tf.constant(steps, "int64")
        self._seed = seed
        self._shuffle = shuffle

    def _one_pass(self, order, number):
        number += order * self._shuffle
        seed = tf.stack([tf.constant(self._seed, "int64"), number])
        return tf.random.experimental.stateless_shuffle(tf.constant(self._classes, "int64"), seed)

    def before(self, order: Any, number: Any) -> Any:
        """Returns how many steps of each class come before a step, int64 `(classes,)`."""
        size = len(self._classes)
        begun = self._one_pass(order, number // size)[: number % size]
        counts = tf.reduce_sum(tf.one_hot(begun, len(self._steps), dtype="int64"), axis=0)
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
