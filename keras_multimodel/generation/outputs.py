"""What generation returns: a list of outputs, or a stream of their pieces."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Hypothesis(NamedTuple):
    """One of the outputs that beam search found for an input.

    Attributes:
        output: the raw output.
        score: its log-probability over the length penalty.
        ended: whether it ended before `max_length`.
    """

    output: Any
    score: float
    ended: bool


class Generation(list):
    """A list of one raw output per input, with what is known about each.

    Args:
        outputs: the raw outputs.
        ended: for each output, whether it ended; False where `max_length` cut it off.
        hypotheses: for each input, the outputs that beam search found, the best first; None after
            any other sampler.
    """

    def __init__(
        self, outputs: list, ended: list[bool], hypotheses: list[list[Hypothesis]] | None = None
    ):
        super().__init__(outputs)
        self.ended = ended
        self.hypotheses = hypotheses


class Stream:
    """An iterator over lists of one new piece per output, None where nothing is new.

    Args:
        steps: pairs of the new pieces and of the value of `ended` after them. Steps without any
            new piece are skipped.
        count: number of outputs.

    Attributes:
        ended: for each output, whether it has ended so far. It stays False where `max_length` cut
            the output off.
    """

    ended: list[bool]

    def __init__(self, steps: Iterator[tuple[list, list[bool]]], count: int):
        self._steps = steps
        self.ended = [False] * count

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> list:
        for pieces, self.ended in self._steps:
            if any(piece is not None for piece in pieces):
                return pieces
        raise StopIteration


class StreamPieces:
    """Finds what is new in each row's raw output while its ids arrive.

    Args:
        decode: maps ids and the number of their row to the raw output.
        incremental: whether the output of a prefix of the ids is a prefix of the whole output, as
            it is for text. Otherwise a row's output comes in one piece, when it is complete.
    """

    def __init__(self, decode: Callable[[np.ndarray, int], Any], incremental: bool):
        self.decode = decode
        self.incremental = incremental
        self._given: dict[int, int] = {}  # by row, how much has been handed out
        self._complete: set[int] = set()  # rows whose last piece has been handed out

    def __call__(self, ids: np.ndarray, complete: np.ndarray) -> list:
        """Returns one new piece per row, None where there is nothing new.

        Args:
            ids: int32 `(rows, length)`, written so far.
            complete: boolean `(rows,)`.
        """
        return [self._piece(i, row, bool(done)) for i, (row, done) in enumerate(zip(ids, complete))]

    def _piece(self, i, row, done):
        if i in self._complete or not (done or self.incremental):
            return None
        if done:
            self._complete.add(i)
        whole = self.decode(row, i)
        if not self.incremental:
            return whole  # a tree or a class has no pieces
        given = self._given.get(i, 0)
        shown = whole if done else _settled(whole)
        self._given[i] = max(given, len(shown))
        return shown[given:] if len(shown) > given else None


def _settled(output):
    """Returns the part of an output that no later id changes.

    A character of several bytes decodes to U+FFFD until its last byte has come, and a space at the
    end is dropped again if nothing follows it.
    """
    return output.rstrip("\ufffd ") if isinstance(output, str) else output
