"""One bad example."""

from typing import NamedTuple


class BadExample(NamedTuple):
    """One example that was skipped.

    Attributes:
        place: file and line, file, or task and number of the example.
        reason: what is wrong, in the same words for all such examples.
        message: the error.
    """

    place: str
    reason: str
    message: str
