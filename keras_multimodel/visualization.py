"""Plots of what a model does."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

ALL_TASKS = "all tasks"


def plot_expert_use(use: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Plots which experts each task uses: a panel for each expert layer, task x expert.

    The color is a task's tokens at an expert over their fair share: 1 if the task spreads its
    tokens evenly, 0 for an expert that it never takes, and at most the number of experts. If there
    are several tasks, a last row adds them up: an expert that is dark there is dying.

    Args:
        use: layer -> task -> `(num_experts,)`, the tokens that each expert received, as
            `kmm.callbacks.expert_use` returns them.

    Returns:
        The figure; `figure.savefig("expert_use.png")` writes it.

    Raises:
        ValueError: `use` is empty, or the counts of a layer are not vectors of one length.

    Example:

    ```python
    use = {"encoder/experts": {"en_de": np.array([5, 0, 1]), "digits": np.array([2, 2, 2])}}
    figure = kmm.visualization.plot_expert_use(use)
    ```
    """
    panels = {layer: _rows(layer, by_task) for layer, by_task in use.items()}
    if not panels:
        raise ValueError(f"`use` must hold at least one expert layer. Received: use={use}")
    heights = [len(rows) for rows in panels.values()]
    # One scale for all panels, of at least 2: an even layer is not shown in full contrast.
    figure = Figure(figsize=(9, 1.2 * len(panels) + 0.28 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    top = max(2.0, *(max(map(np.max, rows.values())) for rows in panels.values()))
    for axis, (layer, rows) in zip(axes, panels.items()):
        image = axis.imshow(np.stack(list(rows.values())), aspect="auto", vmin=0.0, vmax=top)
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set(title=layer, xlabel="expert")
        # Ticks at whole numbers only: there is no expert 2.5.
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=list(axes), label="tokens over fair share")
    return figure


def plot_learning_curves(
    history: Mapping[str, Sequence[float]],
    tasks: Sequence[str],
    metric: str = "log_perplexity",
    baselines: Mapping[str, float] | None = None,
    steps_per_epoch: int | None = None,
) -> Figure:
    """Plots how a measure of each task changes: a panel for each, training and validation.

    Args:
        history: `fit(...).history`. Of a validation that was not done in every epoch, the values
            are spread evenly, or stand at their epochs with NaN at the others.
        tasks: names of the tasks.
        metric: the measure, such as `"log_perplexity"`, `"accuracy"` or `"loss"`.
        baselines: task -> a value to compare with, as a dotted line.
        steps_per_epoch: to have steps along the axis instead of epochs.

    Returns:
        The figure; `figure.savefig("learning_curves.png")` writes it.

    Raises:
        ValueError: there is no task, or `history` has no values of `metric` for any.

    Example:

    ```python
    history = {"en_de_loss": [3.1, 2.5], "val_en_de_loss": [3.0, 2.7]}
    figure = kmm.visualization.plot_learning_curves(history, ["en_de"], metric="loss")
    ```
    """
    curves = {task: _curves(history, task, metric, len(tasks) == 1) for task in tasks}
    if not any(curves.values()):
        raise ValueError(
            f"`history` must have `<task>_{metric}` of one of {list(tasks)}. "
            f"Received: history with {list(history)}"
        )
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.5 * columns, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(tasks) :]:
        axis.remove()
    for axis, (task, lines) in zip(axes.flat, curves.items()):
        for label, (epochs, values) in lines.items():
            axis.plot(epochs * (steps_per_epoch or 1), values, marker=".", label=label)
        if baselines and task in baselines:
            axis.axhline(baselines[task], color="gray", ls=":", label="baseline")
        axis.set_title(task, fontsize="medium")
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.supxlabel("step" if steps_per_epoch else "epoch", fontsize="medium")
    figure.supylabel(metric, fontsize="medium")
    axes.flat[0].legend()
    return figure


def _curves(history, task, metric, single) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns label -> the numbers of the epochs from 1, and the values."""
    found = {}
    for prefix, label in (("", "training"), ("val_", "validation")):
        values = history.get(f"{prefix}{task}_{metric}")
        if values is None and single:  # whose measures Keras logs without its name
            values = history.get(f"{prefix}{metric}")
        values = np.asarray(() if values is None else values, "float64")
        if values.size:
            total = max(map(len, history.values()))
            epochs = (np.arange(len(values)) + 1.0) * (total // len(values))
            real = ~np.isnan(values)
            found[label] = epochs[real], values[real]
    return found


def _rows(layer, by_task) -> dict[str, np.ndarray]:
    """Returns the tokens of each task, and of all together, over their fair share."""
    counts = {task: np.asarray(tokens, "float64") for task, tokens in by_task.items()}
    shapes = {task: tokens.shape for task, tokens in counts.items()}
    if not shapes or len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(
            f"`use[{layer!r}]` must map tasks to vectors of one length. Received: shapes={shapes}"
        )
    if len(counts) > 1:
        counts[ALL_TASKS] = np.sum(list(counts.values()), axis=0)
    return {task: over_fair_share(tokens) for task, tokens in counts.items()}


def over_fair_share(tokens: ArrayLike) -> np.ndarray:
    """Returns counts over their mean: 1 where uniform; zeros if nothing was counted."""
    tokens = np.asarray(tokens, "float64")
    return tokens / max(float(tokens.mean()), 1e-9)
