"""Who helps whom: a task x task matrix from one joint model and short paired runs."""

import copy
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_multimodel.ablation.intervals import Difference
from keras_multimodel.ablation.records import digest
from keras_multimodel.ablation.results import Results
from keras_multimodel.ablation.study import Study
from keras_multimodel.argument_checks import name_list
from keras_multimodel.models.multimodel import MultiModel

JOINT = " + "


class Matrix:
    """What training with one task does to another, with intervals.

    Args:
        results: runs of the variants of `kmm.transfer.variants`, whose metrics are named after the
            tasks and are the better the lower they are.

    `gains` maps `(helper, helped)` to the paired difference of the helped task's metric, alone
    minus together: above 0 the helper helps. Pairs that were not run are missing. Of 100 pairs
    without any effect, 5 get a verdict all the same where the intervals have 95 %.

    Raises:
        ValueError: no pair of tasks was run.

    Example:
        >>> runs = [
        ...     {"configuration": {"variant": name, "seed": seed}, "metrics": metrics}
        ...     for seed in (1, 2, 3)
        ...     for name, metrics in {
        ...         "a": {"a": 1.0 + seed / 9},
        ...         "b": {"b": 2.0},
        ...         "a + b": {"a": 0.5 + seed / 10, "b": 2.0 + (-1) ** seed},
        ...     }.items()
        ... ]
        >>> print(kmm.transfer.Matrix(kmm.ablation.Results(runs)).markdown())
        | helps | a | b |
        | --- | --- | --- |
        | a |  | cannot tell (+0.333 [-2.535, +3.202]) |
        | b | helps (+0.522 [+0.495, +0.550]) |  |
    """

    def __init__(self, results: Results):
        self.results = results
        pairs = [name.split(JOINT) for name in results.variants if JOINT in name]
        ordered = [order for pair in pairs if len(pair) == 2 for order in (pair, pair[::-1])]
        self.gains: dict[tuple[str, str], Difference] = {}
        for helper, helped in ordered:
            together = next(
                v
                for v in map(JOINT.join, ((helper, helped), (helped, helper)))
                if v in results.variants
            )
            if helped in results.variants:
                gain = results.difference(helped, helped, reference=together)
                self.gains[helper, helped] = gain
        if not self.gains:
            raise ValueError(
                "`results` must have variants of one task and of two. "
                f"Received: results.variants={results.variants}"
            )
        self.tasks = [name for name in results.metrics if any(name in p for p in self.gains)]

    def verdict(self, helper: str, helped: str) -> str:
        """Returns `"helps"`, `"hurts"` or `"cannot tell"`.

        Args:
            helper: the task that was trained beside the other.
            helped: the task that was measured.

        Raises:
            ValueError: the pair was not run.
        """
        if (helper, helped) not in self.gains:
            raise ValueError(
                f"`helper` and `helped` must be a pair that was run. Received: {helper}, {helped}"
            )
        words = {"higher": "helps", "lower": "hurts"}
        verdict = self.gains[helper, helped].verdict
        return words.get(verdict, verdict)

    def markdown(self) -> str:
        """Returns a table in Markdown: a row for each helper, a column for each helped task."""
        lines = [["helps", *self.tasks], ["---"] * (1 + len(self.tasks))]
        for helper in self.tasks:
            lines.append([helper, *(self._cell(helper, helped) for helped in self.tasks)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def plot(self) -> Figure:
        """Plots the matrix as a heat map; what cannot be told is gray, with its value.

        Returns:
            The figure. Colors are gains over the largest one of the same column, since the
            metrics of tasks have different scales.
        """
        size = len(self.tasks)
        gains, known = np.full((size, size), np.nan), np.zeros((size, size), bool)
        for (helper, helped), gain in self.gains.items():
            place = self.tasks.index(helper), self.tasks.index(helped)
            gains[place], known[place] = gain.mean, gain.verdict != "cannot tell"
        largest = np.nanmax(np.abs(gains), axis=0, initial=1e-9)
        figure = Figure(figsize=(2.2 + 0.9 * size, 1.2 + 0.7 * size), layout="constrained")
        axis = figure.subplots()
        axis.set_facecolor("gainsboro")
        shown = np.ma.masked_where(~known, gains / largest)
        image = axis.imshow(shown, cmap="RdBu", vmin=-1.0, vmax=1.0)
        for row, column in np.argwhere(np.isfinite(gains)):
            text = f"{gains[row, column]:+.2f}" + ("" if known[row, column] else "\n?")
            axis.text(column, row, text, ha="center", va="center", fontsize="small")
        axis.set_xticks(range(size), self.tasks, rotation=45, ha="right")
        axis.set_yticks(range(size), self.tasks)
        axis.set(xlabel="is helped by (blue) or hurt by (red)", ylabel="the task of the row")
        figure.colorbar(image, ax=axis, label="gain over the largest of the column")
        return figure

    def _cell(self, helper, helped) -> str:
        if (helper, helped) not in self.gains:
            return ""
        gain = self.gains[helper, helped]
        interval = f" [{gain.low:+.3f}, {gain.high:+.3f}]" if gain.count > 1 else ""
        return f"{self.verdict(helper, helped)} ({gain.mean:+.3f}{interval})"


def variants(tasks: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Returns the variants of a study of transfer: every task alone, and every pair.

    Args:
        tasks: names of tasks.

    Returns:
        Name -> the argument `tasks` of `build`.

    Example:
        >>> kmm.transfer.variants(["a", "b"])
        {'a': {'tasks': ['a']}, 'b': {'tasks': ['b']}, 'a + b': {'tasks': ['a', 'b']}}
    """
    names = list(tasks)
    sets = [[name] for name in names] + [list(pair) for pair in itertools.combinations(names, 2)]
    return {JOINT.join(names): {"tasks": names} for names in sets}


def log_perplexities(model: MultiModel, held_out: Any) -> dict[str, float]:
    """Returns task -> log-perplexity on held-out batches: the metrics of a study of transfer.

    Args:
        model: a compiled model with the default metrics.
        held_out: batches of its tasks, or arrays `(x, y)`.
    """
    arrays = held_out if isinstance(held_out, tuple) else (held_out,)
    logs = model.evaluate(*arrays, verbose=0, return_dict=True)
    # Keras leaves the name of the only output out.
    prefixes = {name: f"{name}_" if len(model.tasks) > 1 else "" for name in model.tasks}
    return {name: float(logs[f"{prefix}log_perplexity"]) for name, prefix in prefixes.items()}


def measure(
    joint: MultiModel,
    data: Callable[[MultiModel, int], tuple],
    tasks: Sequence[str] | None = None,
    seeds: int | Sequence[int] = 3,
    compile: Callable[[MultiModel], None] = lambda model: model.compile("adam"),
    fit: Mapping[str, Any] | Callable | None = None,
    folder: str | os.PathLike | None = None,
) -> Matrix:
    """Continues a jointly trained model with each task alone and with each pair, and compares.

    Each run starts from the joint weights. `data` must give a task the same number of its own
    examples whether it is alone or not: `shares` of `kmm.data.mix`, not `batch_size`. Best is a
    joint model in the middle of its training: at its end, little is left to learn.

    The matrix says what a task adds in a short while, near the joint weights. Whether two tasks
    would help each other from the start is another question, which only whole runs answer.

    Args:
        joint: a trained model; it is not changed.
        data: see `kmm.ablation.Study`; called with a model of one task or of two.
        tasks: names of tasks of the model; None for all.
        seeds: see `kmm.ablation.Study`.
        compile: compiles a model.
        fit: see `kmm.ablation.Study`.
        folder: see `kmm.ablation.Study`.

    Returns:
        The matrix, of log-perplexities.

    Raises:
        ValueError: a task is unknown or has no log-perplexity, as those of numbers, or there are
            fewer than two different ones.

    Example:

    ```python
    text, parity = kmm.layers.TextModality(12, 8), kmm.layers.CategoryModality(2, 8)
    tasks = [kmm.Task(name, text, parity) for name in ("first", "last")]
    joint = kmm.MultiModel(tasks, 8, moe=None, conv_block=None)

    def data(model, seed):
        ids = np.random.default_rng(seed).integers(3, 12, (8, 4))
        targets = {"first": ids[:, 0] % 2, "last": ids[:, -1] % 2}
        x = {name: {"inputs": ids} for name in model.tasks}
        y = {name: targets[name] for name in model.tasks}
        return (x, y), (x, y)

    matrix = kmm.transfer.measure(joint, data, seeds=1, fit={"epochs": 1})
    ```

    Reference:
        Fifty et al. 2021, arXiv 2109.04617, measure by steps of one joint run; gradients predict
        little of it (Azorin et al. 2023, arXiv 2301.02873).
    """
    names = list(joint.tasks) if tasks is None else name_list("tasks", tasks)
    if not 2 <= len(set(names)) == len(names) or not set(names) <= set(joint.tasks):
        raise ValueError(
            f"`tasks` must be two or more of {list(joint.tasks)}. Received: tasks={names}"
        )
    without = [name for name in names if not _has_log_perplexity(joint.tasks[name])]
    if without:
        expected = "`tasks` must write ids or classes, which have a log-perplexity"
        raise ValueError(f"{expected}. Received: tasks={without}; see `kmm.ablation.Study`")

    def build(tasks):
        model = MultiModel(
            [joint.tasks[name] for name in tasks], joint.body.hidden_dim, body=joint.body
        )
        model = copy.deepcopy(model)
        compile(model)
        return model

    weights = [keras.ops.convert_to_numpy(weight).tobytes() for weight in joint.weights]
    study = Study(
        build,
        data,
        variants(names),
        seeds,
        metrics=log_perplexities,
        fit=fit,
        folder=folder,
        version=[digest(b"".join(weights))],
    )
    return Matrix(study.run())


def _has_log_perplexity(task) -> bool:
    return any(getattr(x, "name", x) == "log_perplexity" for x in task.metrics())
