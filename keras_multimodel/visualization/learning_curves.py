"""How the measures of all tasks change in training."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from keras_multimodel.argument_checks import name_list


def plot_learning_curves(
    history: Mapping[str, Sequence[float]],
    tasks: str | Sequence[str],
    metric: str = "log_perplexity",
    baselines: Mapping[str, float] | None = None,
    steps_per_epoch: int | None = None,
) -> Figure:
    """Plots how a measure of each task changes: a panel for each, training and validation.

    Args:
        history: `fit(...).history`. Of a validation that was not done in every epoch, the values
            are spread evenly, or stand at their epochs with NaN at the others.
        tasks: names of the tasks, or of one.
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
    tasks = name_list("tasks", tasks)
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
    shown = next(place for place, lines in enumerate(curves.values()) if lines)
    axes.flat[shown].legend()
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
