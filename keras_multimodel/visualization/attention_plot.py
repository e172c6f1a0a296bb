"""Attention drawn over words, image patches and sound."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_multimodel.argument_checks import one_of, positive_int
from keras_multimodel.models.multimodel import MultiModel
from keras_multimodel.visualization.attention import AttentionMap, attention_weights
from keras_multimodel.visualization.positions import Positions
from keras_multimodel.visualization.style import FONT, heat_map, inches, label_axis, plain

_PICTURES = 6  # in a line
_PICTURE = 1.35  # inches
_SOUND = 6.0
_BAR = 0.8  # the color bar with its label


def plot_attention(
    model: MultiModel,
    task: str,
    inputs: Any,
    targets: Any = None,
    layer: str | None = None,
    head: int | None = None,
    max_rows: int = 24,
) -> Figure:
    """Draws what one attention of a model looks at while it writes the output for an example.

    Text is drawn as a heat map of what is written by what is read. Over an image, there is a
    picture for each piece that is written, with the patches in the color of their weight. Sound has
    its spectrogram or waveform under the heat map. A task with several parts has all of them side
    by side, in one scale.

    Args:
        model: a `MultiModel`.
        task: name of the task.
        inputs: one raw input, see `attention_weights`.
        targets: the raw target to read. By default what `generate` writes.
        layer: one of the layers that `attention_weights` returns. By default the last one that
            looks at the input while the model writes, or else the last one.
        head: number of a head, from 0. By default the mean of all heads.
        max_rows: the most rows to draw, from the first one.

    Returns:
        The figure; `figure.savefig("attention.png")` writes it.

    Raises:
        ValueError: as for `attention_weights`, or `layer` or `head` is not there.

    Example:

    ```python
    model = kmm.MultiModel.from_preset("eight_tasks_tiny")
    figure = kmm.visualization.plot_attention(model, "en_de", "Save the file.")
    ```
    """
    max_rows = positive_int("max_rows", max_rows)
    maps = attention_weights(model, task, inputs, targets)
    name = _default(maps) if layer is None else one_of("layer", layer, list(maps))
    found, heads = maps[name], maps[name].weights.shape[0]
    if head is not None:
        head = positive_int("head", head, minimum=0, maximum=heads - 1)
    weights = found.weights.mean(axis=0) if head is None else found.weights[head]
    weights, rows = weights[:max_rows], found.rows[:max_rows]
    shown = f"mean of {heads} heads" if head is None else f"head {head}"
    more = f", {max_rows} of {len(found.rows)} rows" * (len(found.rows) > max_rows)
    return _draw(found, weights, rows, f"{task}: {shown}{more}\n{name}")


def _default(maps: dict[str, AttentionMap]) -> str:
    to_input = [name for name, found in maps.items() if found.parts and not _to_itself(found)]
    return (to_input or list(maps))[-1]


def _to_itself(found):
    return found.rows is found.columns


def _draw(found, weights, rows, title) -> Figure:
    parts = found.parts
    ends = np.cumsum([len(part.labels) for part in parts])[:-1]
    pieces = np.split(weights, ends, axis=1) if parts else [weights]
    sizes = [_size(part, piece, rows) for part, piece in zip(parts or [None], pieces)]
    left = 0.5 + 0.075 * max(map(len, rows))
    widths = [*(width + left for width, _ in sizes), _BAR]
    size = (max(4.5, sum(widths)), max(height for _, height in sizes) + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(plain(title), fontsize="medium")
    options = {"cmap": "viridis", "vmin": 0.0, "vmax": max(float(weights.max()), 1e-9)}
    *panels, bar = figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for panel, part, piece in zip(panels, parts or [None], pieces):
        if part is not None and _is_picture(part):
            image = _over_picture(panel, part, piece, rows, options)
        elif part is not None and _is_sound(part):
            image = _over_sound(panel, part, piece, rows, options)
        else:
            labels = found.columns if part is None else part.labels
            image = heat_map(panel.subplots(), piece, rows, labels, **options)
        if part is not None and len(parts) > 1:
            panel.suptitle(plain(part.name), fontsize="medium")
    bar.colorbar(image, cax=bar.subplots(), label="weight")
    return figure


def _size(part: Positions | None, weights, rows) -> tuple[float, float]:
    """Returns width and height of what is drawn for a part, in inches."""
    if part is not None and _is_picture(part):
        height = part.array.shape[0] / part.array.shape[1] * _PICTURE + 0.25
        lines = -(-(len(rows) + 1) // _PICTURES)
        return min(len(rows) + 1, _PICTURES) * _PICTURE, lines * height
    if part is not None and _is_sound(part):
        return _SOUND, inches(len(rows)) + 1.6
    longest = max(map(len, part.labels)) if part is not None else 12
    return inches(weights.shape[1]), inches(len(rows)) + 0.07 * longest


def _is_picture(part: Positions) -> bool:
    return part.grid is not None and part.array.ndim == 3 and part.array.shape[-1] in (1, 3)


def _is_sound(part: Positions) -> bool:
    return part.stride is not None


def _over_picture(panel, part, weights, rows, options):
    """Draws the picture, and once more for each row, under its weights."""
    columns = min(len(rows) + 1, _PICTURES)
    axes = panel.subplots(-(-(len(rows) + 1) // columns), columns, squeeze=False).flatten()
    height, width = part.array.shape[:2]
    picture = np.clip(part.array.astype("float64") / max(part.array.max(), 1e-9), 0.0, 1.0)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    for axis, title in zip(axes, ["input", *rows]):
        axis.imshow(np.broadcast_to(picture, (height, width, 3)))
        axis.set_title(plain(title), fontsize=FONT)
    for axis, line in zip(axes[1:], weights):
        patches = line.reshape(part.grid)
        image = axis.imshow(patches, alpha=0.6, extent=extent, interpolation="nearest", **options)
    for axis in axes:
        axis.axis("off")
    return image


def _over_sound(panel, part, weights, rows, options):
    """Draws the heat map over the frames or samples, along one axis of time."""
    heights = [inches(len(rows)), 1.1]
    top, bottom = panel.subplots(2, 1, sharex=True, height_ratios=heights)
    step = part.seconds or 1.0
    end = weights.shape[1] * part.stride * step
    extent = (0.0, end, len(rows) - 0.5, -0.5)
    image = top.imshow(weights, aspect="auto", extent=extent, interpolation="nearest", **options)
    label_axis(top.yaxis, rows)
    top.tick_params(labelbottom=False)
    length = len(part.array) * step
    if part.array.ndim > 1:
        bands = part.array.reshape(len(part.array), -1).T
        extent = (0.0, length, -0.5, len(bands) - 0.5)
        bottom.imshow(bands, aspect="auto", origin="lower", extent=extent, cmap="magma")
        bottom.set_yticks([])
    else:
        bottom.plot(np.arange(len(part.array)) * step, part.array, lw=0.5, color="gray")
    bottom.set_xlim(0.0, max(end, length))
    bottom.set_xlabel("seconds" if part.seconds else "step", fontsize=FONT)
    bottom.tick_params(labelsize=FONT)
    return image
