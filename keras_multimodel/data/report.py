"""What data sets hold, as a table and a figure: numbers of examples, lengths, padding, speed."""

import html
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from keras_multimodel.argument_checks import optional_positive_int
from keras_multimodel.data.checks import check_encoded, check_steps
from keras_multimodel.text_tables import table

_QUICK = 2.0  # seconds without a progress bar
_COLUMNS = ("task", "part", "examples", "min", "median", "mean", "p95", "max", "padding", "per_s")
_FORMATS = {"median": ".0f", "mean": ".1f", "p95": ".0f", "padding": ".1%", "per_s": ",.0f"}


@dataclass(frozen=True)
class TaskReport:
    """What the data of one task hold.

    Attributes:
        examples: how many were read.
        seconds: how long the data set took to yield them. Tasks of a mixed data set share it.
        lengths: `"inputs"` and `"targets"`, or the parts of rows, -> the length of each example
            without its padding, int `(examples,)`; only those that are sequences.
        positions: the same keys -> positions with padding, of all examples together.
    """

    examples: int
    seconds: float
    lengths: Mapping[str, np.ndarray]
    positions: Mapping[str, int]

    @property
    def examples_per_second(self) -> float:
        """How fast the data set yields examples."""
        return self.examples / self.seconds

    def padding(self, part: str) -> float:
        """Returns the share of positions of `"inputs"` or `"targets"` that are padding."""
        return 1.0 - self.lengths[part].sum() / max(1, self.positions[part])


class DataReport:
    """The result of `kmm.data.report`. It prints as a table, in a notebook too.

    Args:
        tasks: task -> its report; also an attribute.
    """

    def __init__(self, tasks: Mapping[str, TaskReport]):
        self.tasks = dict(tasks)

    @property
    def padding(self) -> float:
        """The share of all positions, of all tasks together, that are padding."""
        positions = sum(sum(task.positions.values()) for task in self.tasks.values())
        real = sum(part.sum() for task in self.tasks.values() for part in task.lengths.values())
        return 1.0 - real / max(1, positions)

    def rows(self) -> list[dict]:
        """Returns the table, one dict per row, as `pandas.DataFrame` takes it.

        Returns:
            A row for each sequence of each task. A task without a sequence has one row, without
            lengths.
        """
        rows = []
        for name, task in self.tasks.items():
            head = {"task": name, "examples": task.examples, "per_s": task.examples_per_second}
            for part, lengths in task.lengths.items():
                # Python's numbers: `json` takes none of NumPy's.
                statistics = {
                    "min": int(lengths.min()),
                    "median": float(np.median(lengths)),
                    "mean": float(lengths.mean()),
                    "p95": float(np.percentile(lengths, 95)),
                    "max": int(lengths.max()),
                    "padding": task.padding(part),
                }
                rows.append({**head, "part": part, **statistics})
            if not task.lengths:
                rows.append(head)
        return rows

    def plot(self) -> Figure:
        """Plots how long the sequences are, and how much of them is padding.

        Returns:
            A matplotlib figure.

        Raises:
            ValueError: no task has a sequence.
        """
        parts = [(name, part) for name, task in self.tasks.items() for part in task.lengths]
        if not parts:
            expected = "There must be a sequence to plot: all inputs and targets have a fixed size"
            raise ValueError(f"{expected}. Received: tasks={list(self.tasks)}")
        columns = min(4, len(parts))
        rows = -(-len(parts) // columns)
        # Not by pyplot, which would keep the figure and need a display.
        figure = Figure(figsize=(3.5 * columns, 2.5 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(parts) :]:
            axis.remove()
        for axis, (name, part) in zip(axes.flat, parts):
            task = self.tasks[name]
            axis.hist(task.lengths[part], bins=30)
            axis.set_title(f"{name} {part}, {task.padding(part):.0%} padding", fontsize="medium")
            axis.set(xlabel="length", ylabel="examples")
        return figure

    def __str__(self):
        return table([_COLUMNS, *map(_cells, self.rows())], "<<" + ">" * (len(_COLUMNS) - 2))

    __repr__ = __str__

    def _repr_html_(self):
        def line(tag, cells):
            return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

        lines = "".join(line("td", _cells(row)) for row in self.rows())
        return f"<table><thead>{line('th', _COLUMNS)}</thead><tbody>{lines}</tbody></table>"


def _cells(row: dict) -> list[str]:
    """Writes one row of the table."""
    return [format(row[c], _FORMATS.get(c, "")) if c in row else "-" for c in _COLUMNS]


def report(
    dataset: tf.data.Dataset | Mapping[str, tf.data.Dataset],
    max_examples: int | None = None,
    max_steps: int | None = None,
    progress: bool = True,
) -> DataReport:
    """Reads data and reports how many examples there are, how long, how padded, and how fast.

    An example of rank 1 or 2 (ids, samples, frames) is a sequence along its first axis, and the
    zeros at its end are padding. Classes, numbers and images have a fixed size. The speed is
    measured over this one pass, with what only a first pass costs (filling a cache, shuffling).

    Args:
        dataset: encoded examples (see `encode`), a dict task -> encoded examples, or steps `(x, y)`
            as `mix` and `batch` return them.
        max_examples: a data set is read up to the step that reaches this many examples, counted
            over all its tasks.
        max_steps: the most elements to read of a data set: examples, or steps of a mixed one.
        progress: whether to show a progress bar if it takes longer than two seconds.

    Returns:
        A `DataReport`: `print` it, `plot()` it, read its `rows()` or `tasks`.

    Raises:
        ValueError: the elements are none of the above, there are none, or a data set is infinite
            and neither `max_examples` nor `max_steps` is given.

    Example:

    ```python
    import tensorflow as tf

    ids = {"inputs": np.array([[5, 3, 0, 0], [2, 7, 4, 1]]), "targets": np.array([0, 1])}
    found = kmm.data.report({"topic": tf.data.Dataset.from_tensor_slices(ids)})
    print(found)
    print(f"{found.padding:.0%} padding")
    ```
    """
    max_examples = optional_positive_int("max_examples", max_examples)
    max_steps = optional_positive_int("max_steps", max_steps)
    sources = _sources(dataset)
    bounded = max_examples is not None or max_steps is not None
    # All before the first is read: the passes over those before an infinite one would be lost.
    for argument, source, _ in sources:
        if not bounded and source.cardinality() == tf.data.INFINITE_CARDINALITY:
            expected = f"`max_steps` or `max_examples` must be given, for `{argument}` is infinite"
            raise ValueError(f"{expected}. Received: neither")
    tasks = {}
    # One data set after the other, so that the seconds are those of one alone.
    for argument, source, split in sources:
        tasks |= _read(argument, source, split, (max_examples, max_steps), progress)
    return DataReport(tasks)


def _sources(dataset):
    """Returns (name in messages, data set, function from an element to task -> parts)."""
    if isinstance(dataset, Mapping):
        if not dataset:
            raise ValueError("`dataset` must hold at least one task. Received: {}")
        named = [(f"dataset['{name}']", data, name) for name, data in dataset.items()]
    elif isinstance(dataset, tf.data.Dataset) and isinstance(dataset.element_spec, tuple):
        expected = "{'inputs', 'targets'}, or (x, y) as `kmm.data.mix` returns them"
        check_steps("dataset", dataset, expected)
        return [("dataset", dataset, _split_step)]
    else:
        named = [("dataset", dataset, "examples")]
    for argument, data, _ in named:
        check_encoded(argument, data)
    return [(argument, data, _example_of(name)) for argument, data, name in named]


def _example_of(name):
    return lambda example: {
        name: {key: np.asarray(value)[None] for key, value in example.items() if key != "given"}
    }


def _split_step(step):
    x, y = step[:2]
    parts: dict = {}
    for name, arrays in x.items():
        read = {key: a for key, a in arrays.items() if key not in ("given", "targets")}
        parts[name] = read
    for name, targets in y.items():
        parts.setdefault(name, {})["targets"] = targets
    return {name: arrays for name, arrays in parts.items() if arrays}


def _read(argument, source, split, limits, progress):
    max_examples, max_steps = limits
    counts: Counter = Counter()
    positions: Counter = Counter()
    lengths = defaultdict(list)
    seconds = 0.0
    iterator = source.as_numpy_iterator()
    size = int(source.cardinality())
    # Unknown and infinite sizes are negative: the bar then counts without an end.
    total = min((n for n in (max_steps, size) if n is not None and n >= 0), default=None)
    with tqdm(total=total, desc=argument, delay=_QUICK, disable=not progress) as bar:
        for _ in itertools.repeat(None) if max_steps is None else range(max_steps):
            start = time.perf_counter()
            element = next(iterator, None)
            seconds += time.perf_counter() - start  # without the time that counting takes
            if element is None:
                break
            for task, parts in split(element).items():
                counts[task] += len(next(iter(parts.values())))
                for part, values in parts.items():
                    # The axis of the batch comes first: 2 axes are ids or samples, 3 are frames.
                    # Classes have 1 and images 4. Numbers and labels are floats of a fixed size.
                    is_vector = part != "inputs" and values.ndim == 2 and values.dtype.kind == "f"
                    if len(values) and values.ndim in (2, 3) and not is_vector:
                        lengths[task, part].append(_lengths(values))
                        positions[task, part] += values.shape[0] * values.shape[1]
            bar.update()
            if max_examples is not None and sum(counts.values()) >= max_examples:
                break
    if not any(counts.values()):
        raise ValueError(f"`{argument}` must not be empty. Received: 0 examples")
    return {
        task: TaskReport(
            examples=count,
            seconds=seconds,
            lengths={p: np.concatenate(found) for (t, p), found in lengths.items() if t == task},
            positions={p: number for (t, p), number in positions.items() if t == task},
        )
        for task, count in counts.items()
    }


def _lengths(values):
    """Returns the length of each sequence of a batch, without the zeros at its end."""
    # A frame of zeros within a sequence is silence; only those after the last sound are padding.
    real = values != 0
    real = real.any(axis=-1) if real.ndim == 3 else real
    if not real.shape[1]:
        return np.zeros(len(real), "int32")
    last = real.shape[1] - np.argmax(real[:, ::-1], axis=1)
    return np.where(real.any(axis=1), last, 0).astype("int32")
