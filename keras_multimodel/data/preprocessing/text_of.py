"""What a cell of a table, or a value that a user has in its place, reads as a text."""

from typing import Any

import numpy as np


def text_of(raw: Any) -> str:
    """Returns a text or a number as a text.

    Args:
        raw: a text, its bytes, a number or a bool.

    Raises:
        ValueError: it is neither, such as a list.
    """
    if isinstance(raw, bytes):
        return raw.decode("utf-8")
    if isinstance(raw, list | tuple | dict | set | np.ndarray):
        raise ValueError(f"it is a {type(raw).__name__}")
    # 3.0 is how a column of integers with gaps reads.
    is_float = isinstance(raw, float | np.floating)
    return str(int(raw)) if is_float and float(raw).is_integer() else str(raw)
