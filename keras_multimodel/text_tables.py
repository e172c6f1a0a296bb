"""Tables of plain text, for what the library prints."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], sides: str, width: int | None = None) -> str:
    """Writes rows of cells as lines, each column as wide as its widest cell.

    Args:
        rows: the cells, the head first.
        sides: for each column `"<"`, its cells to the left, or `">"`, to the right.
        width: the most characters of a line. Columns to the left are cut to fit, the widest first,
            but never below four characters; numbers are not cut.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    texts = [i for i, side in enumerate(sides) if side == "<"]
    while width is not None and texts and sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= 4:
            break
        widths[widest] -= 1
    line = "  ".join(f"{{:{side}{size}}}" for side, size in zip(sides, widths, strict=True))
    cut = ([_cut(cell, size) for cell, size in zip(row, widths)] for row in rows)
    return "\n".join(line.format(*row).rstrip() for row in cut)


def _cut(cell, size):
    return cell if len(cell) <= size else f"{cell[: size - 1]}…"
