"""A proposal what the columns of a table hold."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_multimodel.data.raw_table import read_table
from keras_multimodel.gaps import is_gap

_ENDINGS = {
    "image": (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"),
    "audio": (".wav", ".flac", ".mp3", ".ogg"),
}
_MAGIC = {"image": (b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM"), "audio": (b"fLaC", b"ID3", b"OggS")}
_MOST_CLASSES = 50


def infer_columns(source: Any) -> dict[str, str]:
    """Proposes a kind for each column of a table, and prints the Python that it stands for.

    Look at what it prints, and correct it: a number may be the number of a class.

    | cells | kind |
    |---|---|
    | paths or bytes of images or sounds, pixels | `"image"`, `"audio"` |
    | numbers, or texts that are numbers | `"number"`; `"category"` for few integers |
    | lists of numbers, also as JSON | `"series"` |
    | lists of names, or names separated by a bar | `"labels"` |
    | texts that occur again and again | `"category"` |
    | other texts | `"text"` |

    Args:
        source: a table, as for `kmm.data.table`.

    Returns:
        Column -> kind, without columns that have no value.

    Raises:
        ValueError: as for `kmm.data.table`.

    Example:

    ```python
    shop = {"title": ["red hat", "a shoe", "old hat"], "price": [9.5, None, 8.0]}
    columns = kmm.data.infer_columns(shop)
    rows = kmm.data.table(shop, columns)
    ```
    """
    raw = read_table(source)
    columns, lines = {}, []
    for name, cells in raw.values.items():
        known = [cell for cell in cells if not is_gap(cell)]
        if not known:
            lines.append(f"    # {name!r} has no value")
            continue
        columns[name] = _kind(known)
        lines.append(f"    {name!r}: {columns[name]!r},  # {len(known)} of {len(cells)} rows")
    print("\n".join(["columns = {", *lines, "}"]))
    return columns


def _kind(known):
    if all(isinstance(cell, str) for cell in known):
        return _kind_of_texts(known)
    if all(isinstance(cell, bytes) for cell in known):
        sounds = all(cell[:4].startswith(_MAGIC["audio"]) or cell[:4] == b"RIFF" for cell in known)
        return "audio" if sounds else "image"
    if all(isinstance(cell, Path) for cell in known):
        return _kind_of_texts([str(cell) for cell in known])
    if all(isinstance(cell, int | float | np.number) for cell in known):
        return _kind_of_numbers(np.array(known, "float64"))
    if all(getattr(cell, "dtype", None) == np.uint8 and cell.ndim > 1 for cell in known):
        return "image"
    if all(isinstance(cell, list | tuple | set | np.ndarray) for cell in known):
        names = all(isinstance(one, str) for cell in known for one in cell)
        return "labels" if names else "series"
    return "text"


def _kind_of_texts(known):
    for kind, endings in _ENDINGS.items():
        if all(cell.lower().endswith(endings) for cell in known):
            return kind
    numbers = [_as_number(cell) for cell in known]
    if all(number is not None for number in numbers):
        return _kind_of_numbers(np.array(numbers))
    if all(cell.startswith("[") and cell.endswith("]") for cell in known):
        return "series"
    pieces = [piece.strip() for cell in known for piece in cell.split("|")]
    if len(pieces) > len(known) and _occur_again(pieces):
        return "labels"
    return "category" if _occur_again(known) else "text"


def _kind_of_numbers(known):
    integers = np.all(np.isfinite(known)) and np.all(known == np.round(known))
    few = len(np.unique(known)) <= 20 and _occur_again(known.tolist())
    return "category" if integers and few else "number"


def _occur_again(cells):
    """Returns whether there are few different cells, each five times on average."""
    different = len(set(cells))
    return different <= _MOST_CLASSES and 5 * different <= len(cells)


def _as_number(text):
    try:
        return float(text)
    except ValueError:
        return None
