"""Which experts each task uses."""

from collections.abc import Mapping

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
    panels = {layer: _rows(counts) for layer, counts in token_counts(use).items()}
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


def token_counts(
    use: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, dict[str, np.ndarray]]:
    """Returns layer -> task -> float64 `(num_experts,)`.

    Args:
        use: the same, as users have it.

    Raises:
        ValueError: `use` is empty, or the counts of a layer are not vectors of one length.
    """
    if not use:
        raise ValueError(f"`use` must hold at least one expert layer. Received: use={use}")
    found = {}
    for layer, by_task in use.items():
        counts = {task: np.asarray(tokens, "float64") for task, tokens in by_task.items()}
        shapes = {task: tokens.shape for task, tokens in counts.items()}
        if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
            expected = f"`use[{layer!r}]` must map tasks to vectors of one length"
            raise ValueError(f"{expected}. Received: shapes={shapes}")
        found[layer] = counts
    return found


def _rows(counts) -> dict[str, np.ndarray]:
    """Returns the tokens of each task, and of all together, over their fair share."""
    if len(counts) > 1:
        counts = {**counts, ALL_TASKS: np.sum(list(counts.values()), axis=0)}
    return {task: over_fair_share(tokens) for task, tokens in counts.items()}


def over_fair_share(tokens: ArrayLike) -> np.ndarray:
    """Returns counts over their mean: 1 where uniform; zeros if nothing was counted."""
    tokens = np.asarray(tokens, "float64")
    return tokens / max(float(tokens.mean()), 1e-9)
