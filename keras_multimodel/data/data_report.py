"""What a data set holds, as a table and a figure."""

import html
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

_COLUMNS = ("task", "part", "examples", "min", "median", "mean", "p95", "max", "padding", "per_s")


@dataclass(frozen=True)
class TaskReport:
    """What the data of one task hold.

    Attributes:
        examples: how many were read.
        seconds: how long the data set took to give them. Tasks of a mixed data set share it.
        lengths: `"inputs"` and `"targets"` -> the length of each example without its padding, int
            `(examples,)`; only those that are sequences.
        positions: the same keys -> positions with padding, of all examples together.
    """

    examples: int
    seconds: float
    lengths: Mapping[str, np.ndarray]
    positions: Mapping[str, int]

    @property
    def examples_per_second(self) -> float:
        """How fast the data set gives examples."""
        return self.examples / self.seconds

    def padding(self, part: str) -> float:
        """Returns the share of positions of `"inputs"` or `"targets"` that are padding."""
        return 1.0 - self.lengths[part].sum() / max(1, self.positions[part])


class DataReport:
    """What `kmm.data.report` found out. It prints as a table, in a notebook too.

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
        """Returns the table, a dict a row: for instance for `pandas.DataFrame`.

        Returns:
            A row for each sequence of each task. A task without any has one row, without lengths.
        """
        rows = []
        for name, task in self.tasks.items():
            head = {"task": name, "examples": task.examples, "per_s": task.examples_per_second}
            for part, lengths in task.lengths.items():
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
        """Draws how long the sequences are, and how much of them is padding.

        Returns:
            A matplotlib figure.

        Raises:
            ValueError: no task has a sequence.
        """
        parts = [(name, part) for name, task in self.tasks.items() for part in task.lengths]
        if not parts:
            raise ValueError(
                "There must be a sequence to plot: all inputs and targets have a fixed size. "
                f"Received: tasks={list(self.tasks)}"
            )
        columns = min(4, len(parts))
        rows = -(-len(parts) // columns)
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
        cells = [_COLUMNS, *(_cells(row) for row in self.rows())]
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if index < 2 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
            for row in cells
        )

    __repr__ = __str__

    def _repr_html_(self):
        head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
        lines = (
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) + "</tr>"
            for row in self.rows()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cells(row: dict) -> list[str]:
    """Writes one row of the table."""
    formats = {"median": "{:.0f}", "mean": "{:.1f}", "p95": "{:.0f}", "padding": "{:.1%}"}
    formats["per_s"] = "{:,.0f}"
    return [
        formats.get(column, "{}").format(row[column]) if column in row else "-"
        for column in _COLUMNS
    ]
