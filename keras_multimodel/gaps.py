"""Which raw values stand for one that is missing."""

from typing import Any

import numpy as np


def is_gap(raw: Any) -> bool:
    """Returns whether a raw value stands for one that is missing: None, NaN, or nothing."""
    if raw is None:
        return True
    if isinstance(raw, str | bytes):
        return not raw.strip()
    try:
        array = np.asarray(raw)
    except (TypeError, ValueError):
        return False  # no array, such as a ragged list
    if array.dtype.kind in "fcmM":  # of times, NaT
        return bool(np.isnan(array).all())  # also of nothing
    if array.dtype.kind == "O" and array.ndim == 0:
        return bool(raw != raw) if type(raw).__name__ != "NAType" else True
    return array.size == 0
