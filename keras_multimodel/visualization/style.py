"""How all heat maps look."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

FONT = "small"
CELL = 0.2  # inches of a row or column with a label
_MOST_LABELS = 120  # of an axis; of more, some are left out


def plain(label: str) -> str:
    """Returns a label that matplotlib shows as it is: dollars would start a formula."""
    return label.replace("$", r"\$")


def inches(count: int) -> float:
    """Returns the length of an axis with so many labels."""
    return CELL * min(max(count, 3), _MOST_LABELS)


def heat_map(
    axis: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], **options
) -> AxesImage:
    """Draws `(rows, columns)` with their labels, those of columns upright.

    Args:
        axis: where to draw.
        values: the values.
        rows: labels of the rows.
        columns: labels of the columns.
        **options: arguments of `imshow`.

    Returns:
        The image, for a color bar.
    """
    image = axis.imshow(values, aspect="auto", interpolation="nearest", **options)
    label_axis(axis.yaxis, rows)
    label_axis(axis.xaxis, columns, rotation=90)
    return image


def label_axis(axis, labels: Sequence[str], **options) -> None:
    """Writes a label at each place of an axis, at most `_MOST_LABELS` of them."""
    step = -(-len(labels) // _MOST_LABELS) or 1
    shown = [plain(label) for label in labels[::step]]
    axis.set_ticks(range(0, len(labels), step), shown, fontsize=FONT, **options)
