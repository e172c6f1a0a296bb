"""Length classes: a few lengths, chosen once, that all batches of a mixture are padded to.

A compiler such as XLA makes one program for each set of shapes. Padding each step to the longest of
its examples gives nearly every step shapes of its own. Here the examples of a task are sorted by
length into a few classes, each with one length to pad to, and a batch is of one class.

A joint step is of one class for all its tasks, so that there are as many programs as classes, not
as many as combinations of them. For that, a class holds the same share of each task: a task's
short examples are seen together with the short ones of the others, and about as often as its long
ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.mixing.task_batches import PARTS, has_length, variable_axes

_GRID = 40  # the places between which the shares of classes are chosen
# Steps of a class in a pass. Their number is rounded up, so that a class of one step and a bit
# would be seen nearly twice as often as the others.
_MIN_STEPS = 4


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
        return self.rows or self.token_budget // int(longest.sum())


def parse_lengths(
    lengths: int | str | Mapping[str, Any], names: Sequence[str] | Mapping[str, Iterable[str]]
) -> tuple[int, dict[str, dict]]:
    """Returns the number of classes, and the lengths that are allowed.

    Args:
        lengths: the argument of `kmm.data.mix`, not `"dynamic"`.
        names: the tasks, and the parts of their examples if these are not `PARTS`.

    Returns:
        The number, and task -> part -> lengths in ascending order.

    Raises:
        ValueError: `lengths` is none of what `mix` takes.
    """
    if isinstance(lengths, str):
        raise ValueError(
            "`lengths` must be 'dynamic', a number of length classes, or a dict from tasks to "
            f"lengths. Received: lengths={lengths!r}"
        )
    if not isinstance(lengths, Mapping):
        return positive_int("lengths", lengths), {}
    if not lengths or not set(lengths) <= set(names):
        raise ValueError(
            f"`lengths` must have tasks of `datasets`: {', '.join(names)}. "
            f"Received: lengths={lengths}"
        )
    parts = names if isinstance(names, Mapping) else dict.fromkeys(names, PARTS)
    allowed = {
        name: _allowed(f"lengths[{name!r}]", value, [*parts[name]])
        for name, value in lengths.items()
    }
    return max(len(some) for parts in allowed.values() for some in parts.values()), allowed


def _allowed(argument, value, parts):
    if isinstance(value, Mapping):
        if not value or not set(value) <= set(parts):
            expected = ", ".join(map(repr, parts))
            raise ValueError(f"`{argument}` must have the keys {expected}. Received: {value}")
        return {part: _ascending(f"{argument}[{part!r}]", some) for part, some in value.items()}
    return dict.fromkeys(parts, _ascending(argument, value))


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
    # Convolutions fail on axes of length 0.
    measured = np.maximum(measured, 1)
    totals = measured.sum(axis=1)
    if token_budget and totals.max() > token_budget:
        raise ValueError(
            f"`token_budget` must be at least the padded length of every example of "
            f"`datasets['{name}']`. Received: token_budget={token_budget}, but example "
            f"{int(totals.argmax())} has a padded length of {totals.max()}"
        )
    return TaskLengths(measured, axes, spec, rows, token_budget)


def _rounded_up(name, part, lengths, allowed):
    place = np.searchsorted(allowed, lengths)
    if place.max() == len(allowed):
        raise ValueError(
            f"`lengths[{name!r}]` must hold every example of `datasets['{name}']`: choose a "
            "greater length, or a `max_length` of the preprocessor and `on_long` of "
            f"`kmm.data.encode`. Received: lengths={allowed}, but example {int(lengths.argmax())} "
            f"has {part} of length {lengths.max()}"
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
    orders, cuts = {}, {}
    cost = np.zeros((grid, grid + 1))  # of a class from one place of the grid to another
    for name, task in tasks.items():
        order = orders[name] = np.argsort(task.measured.sum(axis=1), kind="stable")
        ends = cuts[name] = _cuts(task.weights[order], grid)
        cells = np.array([task.measured[order[a:b]].max(axis=0) for a, b in zip(ends, ends[1:])])
        # The positions that a batch has on average if one class holds the cells from i to j.
        rows = task.rows or task.token_budget / task.measured.sum(axis=1).mean()
        for i in range(grid):
            longest = np.maximum.accumulate(cells[i:], axis=0).sum(axis=1)
            share = (np.array(ends[i + 1 :]) - ends[i]) / len(order)
            cost[i, i + 1 :] += rows * share * longest
    batches = max(task.weights.sum() / (task.rows or task.token_budget) for task in tasks.values())
    widths = np.arange(grid + 1) - np.arange(grid)[:, None]
    allowed = widths * batches >= _MIN_STEPS * grid
    allowed[0, grid] = True  # one class of all examples
    cost[~allowed] = np.inf
    bounds = _cheapest(cost, min(num_classes, grid))
    return {name: _classes(task, orders[name], cuts[name], bounds) for name, task in tasks.items()}


def _cuts(weights, grid):
    """Returns where the examples, sorted, are cut into cells of equal weight, none empty."""
    total = np.cumsum(weights)
    cuts = np.searchsorted(total, total[-1] * np.arange(grid + 1) / grid, side="right")
    cuts[-1] = len(weights)
    # Each at least one after the cut before it, and one before the cut after it.
    steps = np.arange(grid + 1)
    cuts = np.maximum.accumulate(cuts - steps) + steps
    return np.minimum(cuts, len(weights) - steps[::-1]).tolist()


def _cheapest(cost, num_classes):
    """Returns the bounds of up to `num_classes` classes with the least total cost."""
    grid = len(cost)
    best = np.full(grid + 1, np.inf)
    best[0] = 0.0
    origins, totals = [], []
    for _ in range(num_classes):
        through = best[:-1, None] + cost
        origins.append(through.argmin(axis=0))
        best = through.min(axis=0)
        totals.append(best[grid])
    bounds = [grid]
    for origin in reversed(origins[: int(np.argmin(totals)) + 1]):
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
