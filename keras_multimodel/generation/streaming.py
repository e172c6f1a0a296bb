"""Text as it comes."""

from collections.abc import Iterator

import numpy as np


class Stream:
    """An iterator over what is new in each output, None where nothing is.

    Args:
        steps: pairs of the new pieces and of what `ended` is then; those without news are skipped.
        count: number of outputs.

    Attributes:
        ended: per output, whether it has come to an end so far; False for good where `max_length`
            cut it off.
    """

    ended: list[bool]

    def __init__(self, steps: Iterator[tuple[list, list[bool]]], count: int):
        self._steps = steps
        self.ended = [False] * count

    def __iter__(self):
        return self

    def __next__(self) -> list:
        for pieces, self.ended in self._steps:
            if any(piece is not None for piece in pieces):
                return pieces
        raise StopIteration


class Pieces:
    """Tells, as ids come, what is new in each row's raw output.

    Args:
        decode: from ids and the number of the row to the raw output.
        incremental: whether the output of the first ids is how the whole output begins, as that of
            a text is. Else a row's output comes in one piece, when it is complete.
    """

    def __init__(self, decode, incremental: bool):
        self.decode = decode
        self.incremental = incremental
        self._given: dict[int, object] = {}

    def __call__(self, ids: np.ndarray, complete: np.ndarray) -> list:
        """Returns one new piece a row, None where there is nothing new.

        Args:
            ids: int32 `(rows, length)`, written so far.
            complete: boolean `(rows,)`.
        """
        return [self._piece(i, row, bool(done)) for i, (row, done) in enumerate(zip(ids, complete))]

    def _piece(self, i, row, done):
        given = self._given.get(i)
        if given is _ALL or not (done or self.incremental):
            return None
        whole = self.decode(row, i)
        if not self.incremental:
            self._given[i] = _ALL
            return whole
        given = whole[:0] if given is None else given
        # A character of several bytes is shown when it is whole, a space when something follows.
        shown = whole if done else _settled(whole)
        if done:
            self._given[i] = _ALL
        elif len(shown) > len(given):
            self._given[i] = shown
        piece = shown[len(given) :]
        return piece if len(piece) else None


def _settled(output):
    return output.rstrip("\ufffd ") if isinstance(output, str) else output


_ALL = object()
