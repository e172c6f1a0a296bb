"""How alike tasks are: in the experts that they use, and in their command tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_multimodel.argument_checks import one_of
from keras_multimodel.models.multimodel import MultiModel, check_multimodel
from keras_multimodel.visualization.expert_use import token_counts
from keras_multimodel.visualization.style import heat_map


@dataclass(frozen=True)
class Similarity:
    """How alike tasks are, pair by pair.

    Attributes:
        names: the tasks.
        values: `(tasks, tasks)`, symmetric, 1 on the diagonal.
        chance: below this, a value is what unrelated tasks may have; 0 if there is no such limit.
        measure: what the values are, for a color bar.
    """

    names: list[str]
    values: np.ndarray
    chance: float = 0.0
    measure: str = "similarity"

    def nearest(self, name: str, count: int = 3) -> list[tuple[str, float]]:
        """Returns the tasks that are most like a task, the most similar first.

        Args:
            name: the task.
            count: the most tasks to return.

        Returns:
            Pairs of a task and its similarity.

        Raises:
            ValueError: `name` is none of the tasks.
        """
        row = self.values[self.names.index(one_of("name", name, self.names))]
        others = [(other, float(x)) for other, x in zip(self.names, row) if other != name]
        return sorted(others, key=lambda pair: -pair[1])[:count]


def expert_similarity(use: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Similarity]:
    """Compares which experts tasks use: the share of their tokens that goes to the same experts.

    For tasks that send the shares `p` and `q` of their tokens to the experts it is the sum of
    `min(p, q)`: 1 if both spread their tokens alike, 0 if they have no expert in common. A router
    that balances its load keeps it well above 0, so differences between pairs tell more than one
    value.

    Args:
        use: layer -> task -> `(num_experts,)`, the tokens that each expert received, as
            `kmm.callbacks.expert_use` returns them.

    Returns:
        Layer -> the similarity of the tasks that sent it tokens.

    Raises:
        ValueError: `use` is empty, or the counts of a layer are not vectors of one length.

    Example:
        >>> use = {"experts": {"a": np.array([4, 4, 0]), "b": np.array([0, 3, 1])}}
        >>> kmm.visualization.expert_similarity(use)["experts"].values.tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    return {layer: _overlap(counts) for layer, counts in token_counts(use).items()}


def command_similarity(model: MultiModel) -> Similarity:
    """Compares the command tokens, the vectors by which the decoder is told its task.

    Args:
        model: a `MultiModel`.

    Returns:
        The cosine of each pair. The tokens start at random, where the cosine has a deviation of
        `1 / sqrt(hidden_dim)`; `chance` is twice that.

    Raises:
        ValueError: `model` is no `MultiModel`, or no task of it has a command token: those whose
            classes are read from the encoder have none.

    Example:

    ```python
    model = kmm.MultiModel.from_preset("eight_tasks_tiny")
    found = kmm.visualization.command_similarity(model)
    print(found.nearest("en_de"))
    kmm.visualization.plot_similarity(found).savefig("commands.png")
    ```
    """
    tasks = check_multimodel(model).tasks.values()
    names = [task.name for task in tasks if task.read_from == "decoder"]
    if not names:
        raise ValueError(
            "`model` must have a task that is read from the decoder. "
            f"Received: model with the tasks {list(model.tasks)}"
        )
    commands = [model.body.commands[name].command for name in names]
    vectors = np.stack([keras.ops.convert_to_numpy(x) for x in commands]).astype("float64")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    chance = 2 * vectors.shape[1] ** -0.5
    return Similarity(names, vectors @ vectors.T, chance, "cosine of command tokens")


def plot_similarity(similarity: Similarity | Mapping[str, Similarity]) -> Figure:
    """Plots how alike tasks are: task x task, a panel for each similarity, with the values.

    Args:
        similarity: what `command_similarity` or `expert_similarity` returns.

    Returns:
        The figure. Values within `chance` of 0 are gray.

    Raises:
        ValueError: there is nothing to show.

    Example:

    ```python
    found = kmm.visualization.Similarity(["a", "b"], np.array([[1.0, 0.4], [0.4, 1.0]]))
    figure = kmm.visualization.plot_similarity(found)
    ```
    """
    given: Any = {"": similarity} if isinstance(similarity, Similarity) else similarity
    panels: dict[str, Similarity] = dict(given) if isinstance(given, Mapping) else {}
    are_found = all(isinstance(found, Similarity) for found in panels.values())
    # No tasks are alike in a layer that got no tokens.
    panels = {title: found for title, found in panels.items() if are_found and found.names}
    if not panels:
        raise ValueError(
            "`similarity` must be a Similarity of some tasks, or a dict of at least one. "
            f"Received: similarity={similarity!r}"
        )
    sizes = [max(3, len(found.names)) for found in panels.values()]
    figure = Figure(
        figsize=(1.2 + sum(1.0 + 0.52 * n for n in sizes), 1.4 + 0.4 * max(sizes)),
        layout="constrained",
    )
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=sizes)[0]
    for axis, (title, found) in zip(axes, panels.items()):
        _draw(figure, axis, title, found)
    return figure


def _draw(figure, axis, title, found):
    # The diagonal says nothing, and would set the scale.
    others = found.values[~np.eye(len(found.names), dtype=bool)]
    top = max(np.abs(others).max(initial=0.0), 1e-9)
    low = -top if others.min(initial=0.0) < 0 else others.min(initial=top)
    hidden = np.eye(len(found.names), dtype=bool) | (np.abs(found.values) < found.chance)
    shown = np.ma.masked_where(hidden, found.values)
    axis.set_facecolor("gainsboro")
    options = {"cmap": "RdBu" if low < 0 else "viridis", "vmin": low, "vmax": top}
    image = heat_map(axis, shown, found.names, found.names, **options)
    for row, column in np.argwhere(~np.eye(len(found.names), dtype=bool)):
        value = found.values[row, column]
        red, green, blue, _ = image.to_rgba(value)
        dark = not hidden[row, column] and 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        color = "white" if dark else "black"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    axis.set_title(title, fontsize="medium")
    figure.colorbar(image, ax=axis, label=found.measure)


def _overlap(counts) -> Similarity:
    shares = {task: tokens / tokens.sum() for task, tokens in counts.items() if tokens.any()}
    rows = np.array([*shares.values()]) if shares else np.zeros((0, 1))
    values = np.minimum(rows[:, None], rows[None]).sum(axis=-1)
    return Similarity(list(shares), values, measure="share of tokens at the same experts")
