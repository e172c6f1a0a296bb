"""The measures of each task, epoch by epoch, and their table."""

import math
from collections.abc import Callable

from keras_multimodel.text_tables import table

_FIRST = ("loss", "accuracy", "log_perplexity")
_MAIN = "log_perplexity"
_EXPERTS = ("encoder_experts_", "decoder_experts_")  # what their keys begin with
_BETTER: dict[str, Callable[[float, float], bool]] = {
    "down": lambda new, old: new < old,
    "up": lambda new, old: new > old,
}


class TaskRecords:
    """Collects the logs of epochs and writes the latest ones as a table, a row for each task.

    Args:
        tasks: names of the tasks.
    """

    def __init__(self, tasks: list[str]):
        self.tasks = tasks
        self.epochs: list[int] = []
        self.history: dict[str, list[float]] = {}
        # Key of the logs -> the best value and its epoch, where it is known what is better.
        self.best: dict[str, tuple[float, int]] = {}

    def add(self, epoch: int, logs: dict[str, float], direction: Callable[[str], str | None]):
        """Adds the logs of an epoch.

        Args:
            epoch: its number, from 0.
            logs: its logs.
            direction: function from a key of the logs to `"up"` or `"down"`, whichever is better,
                or None.
        """
        for key in [*logs, *self.history]:
            # NaN where there is none, as between validations.
            past = self.history.setdefault(key, [math.nan] * len(self.epochs))
            if len(past) == len(self.epochs):
                past.append(float(logs.get(key, math.nan)))
        self.epochs.append(epoch)
        for key, value in logs.items():
            better = None if math.isnan(value) else _BETTER.get(direction(key) or "")
            if better and (key not in self.best or better(value, self.best[key][0])):
                self.best[key] = value, epoch

    def main(self) -> str:
        """Returns one measure of each task, training/validation, in a line.

        It is the log-perplexity, or of tasks without one, as those of numbers, their first metric.
        """
        found: dict[str, list[str]] = {}
        measures = sorted(self._measures(), key=lambda name: (name != _MAIN, name == "loss"))
        for task in self.tasks:
            for measure in measures:
                values = [self._last(key) for key in self._keys(task, measure)]
                shown = "/".join(_short(value) for value in values if not math.isnan(value))
                if shown:
                    found.setdefault(measure, []).append(f"{task} {shown}")
                    break
        return " - ".join(f"{measure}: {', '.join(tasks)}" for measure, tasks in found.items())

    def curve(self) -> str:
        """Returns the measure of learning curves: the log-perplexity if all tasks have one."""
        every = all(self._keys(task, _MAIN)[0] in self.history for task in self.tasks)
        return _MAIN if every else "loss"

    def rows(self) -> list[list[str]]:
        """Returns the cells of the table, the head first."""
        measures = self._measures()
        validated = any(key.startswith("val_") for key in self.history)
        rows = [["task", *measures]]
        for task in self.tasks:
            keys = [self._keys(task, measure) for measure in measures]
            rows.append([task, *(self._cell(*pair, validated) for pair in keys)])
        return rows

    def text(self, width: int) -> str:
        """Returns the table and the balance of the experts, in lines of at most `width`."""
        if not self.epochs:
            return "no epoch yet"
        rows = self.rows()
        lines = table(rows, "<" + ">" * (len(rows[0]) - 1)).splitlines()
        # Of the measures, the first ones stay.
        while max(map(len, lines)) > width and len(rows[0]) > 2:
            rows = [row[:-1] for row in rows]
            lines = table(rows, "<" + ">" * (len(rows[0]) - 1), width).splitlines()
        notes = [self.note(), self.experts()]
        return "\n".join([*lines, *(note[:width] for note in notes if note)])

    def note(self) -> str:
        """Returns what the cells of the table are."""
        validated = any(key.startswith("val_") for key in self.history)
        cells = "training / validation, " if validated else ""
        return f"epoch {self.epochs[-1] + 1}: {cells}* best so far"

    def experts(self) -> str:
        """Returns the loads of the experts in a line, empty if there are none."""
        ends = ("_min_load", "_max_load")
        layers = [key.removesuffix(ends[0]) for key in self.history if key.endswith(ends[0])]
        loads = {
            name: [self._last(name + end) for end in ends]
            for name in layers
            if not name.startswith("val_") and name + ends[1] in self.history
        }
        shown = (
            f"{name.removesuffix('_experts')} {least:.2f} to {most:.2f}"
            for name, (least, most) in loads.items()
        )
        return f"experts' load over fair share: {', '.join(shown)}" if loads else ""

    def _measures(self):
        found = {}
        for key in self.history:
            task = owner_of(self.tasks, key)
            if task is not None:
                found[key.removeprefix(f"{task}_")] = None
            elif len(self.tasks) == 1 and key in self.best and not key.startswith("val_"):
                found[key] = None  # without the name of the task, where there is one alone
        return [m for m in _FIRST if m in found] + [m for m in found if m not in _FIRST]

    def _keys(self, task, measure):
        key = f"{task}_{measure}"
        if key not in self.history and len(self.tasks) == 1:
            key = measure
        return key, f"val_{key}"

    def _cell(self, key, val_key, validated):
        trained, judged = self._number(key), self._number(val_key)
        # Where there is validation data, it decides what is best.
        best = self.best.get(val_key if validated else key, (None, None))[1]
        mark = "*" if best == self.epochs[-1] else " "
        if not trained + judged:
            return ""
        return f"{trained or '-'} / {judged or '-':>6}{mark}" if validated else trained + mark

    def _number(self, key):
        value = self._last(key)
        if math.isnan(value):
            return ""
        if abs(value) >= 100:
            return f"{value:.4g}"
        # Errors of numbers in small units would all be 0.000.
        return f"{value:.3f}" if abs(value) >= 0.001 or not value else f"{value:.2g}"

    def _last(self, key):
        return self.history.get(key, [math.nan])[-1]


def _short(value):
    # Errors of numbers in small or large units would be 0.00, or long.
    return f"{value:.2f}" if 0.01 <= abs(value) < 100 or not value else f"{value:.4g}"


def owner_of(tasks: list[str], key: str) -> str | None:
    """Returns the task whose measure a key of the logs is, or None.

    Args:
        tasks: names of the tasks.
        key: the key, without `val_`.
    """
    if key.startswith(_EXPERTS):  # also beside a task that is called `encoder`
        return None
    # The longest name: with tasks `en` and `en_de`, the key `en_de_loss` is of the latter.
    owners = [task for task in tasks if key.startswith(f"{task}_")]
    return max(owners, key=len, default=None)
