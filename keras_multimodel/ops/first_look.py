"""Looks at the first batch of a data set, which do not count as reading it."""

import contextlib
from collections.abc import Iterator

_looks = []


@contextlib.contextmanager
def first_look() -> Iterator[None]:
    """Tells mixtures, wherever they stand in a pipeline, that an iteration is only a look."""
    look = object()
    _looks.append(look)
    try:
        yield
    finally:
        _looks.remove(look)


def is_first_look() -> bool:
    """Returns whether somebody takes a first look now."""
    return bool(_looks)
