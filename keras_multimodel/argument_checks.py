"""Checks of single arguments, shared by every constructor and function of the package.

Each check returns the value that the caller should keep: a NumPy integer becomes an `int`, so that
configs stay serializable as JSON. Checks of arrays and data sets live beside the code that reads
them (`models/validation.py`, `data/encoding`).
"""

import operator
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any


def positive_int(argument: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Returns `value` as an `int`.

    Args:
        argument: name of the argument, for the message.
        value: what was received; booleans are refused.
        minimum: the smallest valid value.
        maximum: the largest valid value; None for no limit.

    Raises:
        ValueError: `value` is not an integer, is below `minimum`, or is above `maximum`.
    """
    number = _as_int(value)
    if number is None or number < minimum:
        expected = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
        raise ValueError(f"`{argument}` must be {expected}. Received: {argument}={value!r}")
    if maximum is not None and number > maximum:
        raise ValueError(f"`{argument}` must be at most {maximum}. Received: {argument}={value!r}")
    return number


def optional_positive_int(argument: str, value: Any) -> int | None:
    """Returns `value` as an `int`, or None; see `positive_int`."""
    return None if value is None else positive_int(argument, value)


def integer(argument: str, value: Any) -> int:
    """Returns `value`, which may be negative, as an `int`; see `positive_int`."""
    number = _as_int(value)
    if number is None:
        raise ValueError(f"`{argument}` must be an integer. Received: {argument}={value!r}")
    return number


def not_negative(argument: str, value: Any) -> float:
    """Returns a finite number of at least 0.

    Args:
        argument: name of the argument, for the message.
        value: what was received.

    Raises:
        ValueError: `value` is not a number, is negative, or is not finite.
    """
    if not _is_number(value) or not value < float("inf"):  # NaN compares as False
        raise ValueError(f"`{argument}` must be a finite number. Received: {argument}={value!r}")
    if value < 0:
        raise ValueError(f"`{argument}` must not be negative. Received: {argument}={value!r}")
    return value


def positive(argument: str, value: Any) -> float:
    """Returns a finite number above 0.

    Args:
        argument: name of the argument, for the message.
        value: what was received.

    Raises:
        ValueError: `value` is not a number, is not above 0, or is not finite.
    """
    if not _is_number(value) or not 0 < value < float("inf"):
        raise ValueError(
            f"`{argument}` must be positive and finite. Received: {argument}={value!r}"
        )
    return value


def fraction(argument: str, value: Any) -> float:
    """Returns a number in [0, 1), such as a dropout rate.

    Args:
        argument: name of the argument, for the message.
        value: what was received.

    Raises:
        ValueError: `value` is not a number in [0, 1).
    """
    # Not 1: dropout scales what it keeps by 1 / (1 - rate).
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"`{argument}` must be in [0, 1). Received: {argument}={value!r}")
    return value


def share(argument: str, value: Any) -> float:
    """Returns a number in [0, 1], such as the largest share of an example that a mask takes.

    Args:
        argument: name of the argument, for the message.
        value: what was received.

    Raises:
        ValueError: `value` is not a number in [0, 1].
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"`{argument}` must be from 0 to 1. Received: {argument}={value!r}")
    return value


def inner_share(argument: str, value: Any) -> float:
    """Returns a number between 0 and 1, such as the share of a data set that is set aside.

    Args:
        argument: name of the argument, for the message.
        value: what was received.

    Raises:
        ValueError: `value` is not a number between 0 and 1, or is one of them.
    """
    if not _is_number(value) or not 0 < value < 1:
        raise ValueError(f"`{argument}` must be between 0 and 1. Received: {argument}={value!r}")
    return value


def one_of(argument: str, value: Any, choices: Collection) -> Any:
    """Returns one of `choices`.

    Args:
        argument: name of the argument, for the message.
        value: what was received.
        choices: the valid values.

    Raises:
        ValueError: `value` is not among `choices`.
    """
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{argument}` must be one of {listed}. Received: {argument}={value!r}")
    return value


def name_list(argument: str, value: Any) -> list[str]:
    """Returns a list of names that exist. A string is one name, and not its letters.

    Lists of what is new, such as vocabularies and sentences, refuse a string: it may be a path.

    Args:
        argument: name of the argument, for the message.
        value: a name, or several.

    Raises:
        ValueError: `value` is neither.
    """
    if isinstance(value, str):
        return [value]
    found = list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(name, str) for name in found):
        expected = f"`{argument}` must be a name, or a list of names"
        raise ValueError(f"{expected}. Received: {argument}={value!r}")
    return found


def made_folder(argument: str, path: str | os.PathLike) -> Path:
    """Returns a folder, which is created if it does not exist.

    Args:
        argument: name of the argument, for the error.
        path: its value.

    Raises:
        ValueError: `path` is no path, or it or what it lies in is a file.
    """
    if not isinstance(path, str | os.PathLike) or not str(path):
        expected = f"`{argument}` must be the path of a folder"
        raise ValueError(f"{expected}. Received: {argument}={path!r}")
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        expected = f"`{argument}` must be a folder, or not exist yet"
        received = f"{argument}={str(path)!r}, a file or in one"
        raise ValueError(f"{expected}. Received: {received}") from error
    return folder


def block_shape(argument: str, shape: Any, hidden_dim: int, ranks: Collection[int] = (3,)) -> None:
    """Checks the shape that a block is built for.

    Args:
        argument: name of the tensor, for the message.
        shape: its shape, the batch axis first.
        hidden_dim: the width of the block.
        ranks: the valid ranks: 3 for sequences, 2 for position-wise blocks too.

    Raises:
        ValueError: the rank is not valid, or the last axis is not `hidden_dim`.
    """
    # Batch and length may be None or anything else: blocks have no weights along them.
    if len(shape) not in ranks or shape[-1] != hidden_dim:
        expected = "(batch, length, hidden_dim)" + (" or (batch, hidden_dim)" if 2 in ranks else "")
        raise ValueError(
            f"`{argument}` must have shape {expected}. "
            f"Received: {argument}.shape={tuple(shape)}, hidden_dim={hidden_dim}"
        )


def _as_int(value):
    """Returns a Python integer, or None for what is not an integer."""
    # A bool is an `int` in Python: a flag at the place of a size would pass for 0 or 1.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:  # arrays and tensors have `__index__`, and refuse where they are no scalar
        return None


def _is_number(value):
    # Most of NumPy's numbers are no `int` or `float`, and neither are scalars of a backend.
    return isinstance(value, int | float) or hasattr(value, "__float__")
