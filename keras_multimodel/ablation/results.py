"""The results of a study: table, Markdown and figure."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from keras_multimodel.ablation.intervals import Difference, paired_difference, seeds_needed
from keras_multimodel.argument_checks import name_list, one_of

if TYPE_CHECKING:
    import pandas

COSTS = ("parameters", "active_parameters", "multiplications")


class Results:
    """What the runs of a study measured, and the paired differences from the reference.

    Args:
        records: the runs, dicts as `Study` writes them.
        reference: the variant that the others are compared with; None for the first one.
        confidence: of the intervals.

    `variants` has the names of the variants, the reference first, `metrics` those of the metrics.

    Raises:
        ValueError: there is no run, or none of the reference, or two of one variant and seed.

    Example:
        >>> runs = [
        ...     {"configuration": {"variant": name, "seed": seed}, "metrics": {"loss": loss}}
        ...     for name, losses in (("all", (1.0, 1.2)), ("small", (1.5, 1.6)))
        ...     for seed, loss in enumerate(losses)
        ... ]
        >>> results = kmm.ablation.Results(runs)
        >>> round(results.difference("small", "loss").mean, 2)
        0.45
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        reference: str | None = None,
        confidence: float = 0.95,
    ):
        if not records:
            raise ValueError(f"`records` must hold at least one run. Received: {len(records)}")
        self.records = list(records)
        runs = [(r["configuration"]["variant"], r["configuration"]["seed"]) for r in records]
        twice = [run for run in runs if runs.count(run) > 1]
        if twice:
            raise ValueError(
                "`records` must hold one run of a variant and a seed: remove those of an older "
                f"configuration. Received: {len(twice)} runs like {twice[0]}"
            )
        names = dict.fromkeys(name for name, _ in runs)
        self.reference = next(iter(names)) if reference is None else reference
        one_of("reference", self.reference, list(names))
        self.variants = [self.reference, *(name for name in names if name != self.reference)]
        self.metrics = list(dict.fromkeys(key for r in records for key in r["metrics"]))
        self.confidence = confidence

    @classmethod
    def read(
        cls, folder: str | os.PathLike, reference: str | None = None, confidence: float = 0.95
    ) -> "Results":
        """Returns the results of all runs that a folder holds.

        Args:
            folder: the `folder` of a study.
            reference: see `Results`.
            confidence: see `Results`.

        Raises:
            ValueError: the folder holds no run.
        """
        files = sorted(pathlib.Path(folder).glob("*.json"))
        if not files:
            raise ValueError(f"`folder` must hold runs. Received: folder={str(folder)!r}")
        return cls([_read(file) for file in files], reference, confidence)

    def values(self, variant: str, metric: str) -> list[float]:
        """Returns a metric of a variant, a number for each seed, in the order of the seeds."""
        found = self._by_seed(variant, metric)
        return [found[seed] for seed in sorted(found)]

    def difference(self, variant: str, metric: str, reference: str | None = None) -> Difference:
        """Returns variant minus reference, paired by the seeds that both have.

        Args:
            variant: a variant.
            metric: a metric.
            reference: the variant to compare with; None for the reference of the results.

        Raises:
            ValueError: a name is unknown, or the two have no seed in common.
        """
        one = self._by_seed(variant, metric)
        two = self._by_seed(self.reference if reference is None else reference, metric)
        common = sorted(set(one) & set(two))
        values, others = [one[seed] for seed in common], [two[seed] for seed in common]
        return paired_difference(values, others, self.confidence)

    def seeds_needed(self, variant: str, metric: str, difference: float) -> int | None:
        """Returns how many seeds would show a difference of this size, see `seeds_needed`.

        Args:
            variant: a variant, whose paired differences give the standard deviation.
            metric: a metric.
            difference: the mean difference that should be seen.

        Raises:
            ValueError: there are fewer than two pairs.
        """
        found = self.difference(variant, metric)
        if found.count < 2:
            raise ValueError(
                f"`variant` must have runs with two seeds or more. Received: {found.count}"
            )
        return seeds_needed(found.deviation, difference, self.confidence)

    def rows(self) -> list[dict[str, Any]]:
        """Returns a dict for each variant: costs, and for each metric mean and difference."""
        return [self._row(variant) for variant in self.variants]

    def table(self) -> "pandas.DataFrame":
        """Returns the rows as a `pandas.DataFrame`, indexed by the variant.

        Raises:
            ModuleNotFoundError: pandas is not installed; `keras-multimodel[ablation]` has it.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "pandas is needed for this table: pip install 'keras-multimodel[ablation]'"
            ) from error
        return pandas.DataFrame(self.rows()).set_index("variant")

    def markdown(self, metrics: str | Sequence[str] | None = None) -> str:
        """Returns a table in Markdown: means, and in brackets the interval of each difference.

        Args:
            metrics: which metrics to show, or one; None for all.

        Raises:
            ValueError: a metric is unknown.
        """
        metrics = self._shown(metrics)
        costs = [key for key in COSTS if any(key in row for row in self.rows())]
        heads = ["variant", *(key.replace("_", " ") for key in costs), "seeds", *metrics]
        lines = [heads, ["---"] * len(heads)]
        for row in self.rows():
            cells = [f"{row[key]:,}" if key in row else "" for key in costs]
            shown = [self._cell(row["variant"], metric) for metric in metrics]
            lines.append([row["variant"], *cells, str(row["seeds"]), *shown])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def plot(self, metrics: str | Sequence[str] | None = None) -> Figure:
        """Plots the difference of each variant from the reference, with its interval.

        Args:
            metrics: which metrics to show, a panel for each, or one; None for all.

        Returns:
            The figure. Small points are seeds; a variant with a single one has no interval.

        Raises:
            ValueError: a metric is unknown.
        """
        metrics = self._shown(metrics)
        others = self.variants[1:] or self.variants
        columns = min(4, len(metrics))
        rows = -(-len(metrics) // columns)
        size = (1.5 + 2.6 * columns, 0.6 + rows * (0.8 + 0.34 * len(others)))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axis in axes.flat[len(metrics) :]:
            axis.remove()
        for axis, metric in zip(axes.flat, metrics):
            axis.axvline(0.0, color="gray", lw=0.8)
            for place, variant in enumerate(others):
                self._draw(axis, place, variant, metric)
            axis.set_yticks(range(len(others)), others)
            axis.set_title(metric, fontsize="medium")
            axis.margins(y=0.2)
        axes[0, 0].invert_yaxis()
        figure.supxlabel(f"difference from {self.reference!r}", fontsize="medium")
        return figure

    def _draw(self, axis, place, variant, metric):
        one, two = self._by_seed(variant, metric), self._by_seed(self.reference, metric)
        seeds = [one[seed] - two[seed] for seed in sorted(set(one) & set(two))]
        if not seeds:
            return
        found = self.difference(variant, metric)
        axis.plot(seeds, [place] * len(seeds), ".", color="silver", zorder=1)
        half = found.high - found.mean if np.isfinite(found.high) else 0.0
        clear = found.verdict != "cannot tell"
        color = "tab:blue" if clear else "gray"
        axis.errorbar(found.mean, place, xerr=half, fmt="o", capsize=3, color=color)

    def _row(self, variant) -> dict[str, Any]:
        runs = [r for r in self.records if r["configuration"]["variant"] == variant]
        row = {"variant": variant, **runs[0].get("cost", {}), "seeds": len(runs)}
        for metric in self.metrics:
            values = self.values(variant, metric)
            row[metric] = float(np.mean(values)) if values else float("nan")
            if self._is_compared(variant, metric):
                found = self.difference(variant, metric)
                row[f"{metric} difference"] = found.mean
                row[f"{metric} low"], row[f"{metric} high"] = found.low, found.high
        return row

    def _cell(self, variant, metric) -> str:
        values = self.values(variant, metric)
        if not values:
            return ""
        mean = f"{np.mean(values):.3f}"
        if not self._is_compared(variant, metric):
            return mean
        found = self.difference(variant, metric)
        if found.count < 2:
            return f"{mean} ({found.mean:+.3f})"
        return f"{mean} ({found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}])"

    def _is_compared(self, variant, metric) -> bool:
        """Returns whether a variant has runs to compare with those of the reference."""
        one, two = (self._by_seed(name, metric) for name in (variant, self.reference))
        return variant != self.reference and bool(set(one) & set(two))

    def _by_seed(self, variant, metric) -> dict[int, float]:
        one_of("variant", variant, self.variants)
        self._metric(metric)
        return {
            record["configuration"]["seed"]: record["metrics"][metric]
            for record in self.records
            if record["configuration"]["variant"] == variant and metric in record["metrics"]
        }

    def _shown(self, metrics) -> list[str]:
        given = self.metrics if metrics is None else name_list("metrics", metrics)
        return [self._metric(key) for key in given]

    def _metric(self, metric) -> str:
        return one_of("metric", metric, self.metrics)


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(record["configuration"], dict) and isinstance(record["metrics"], dict):
            return record
    except (KeyError, TypeError, ValueError):  # broken JSON, or that of somebody else
        pass
    expected = "`folder` must hold nothing but runs of a study in its JSON files"
    raise ValueError(f"{expected}. Received: {str(file)!r}")
