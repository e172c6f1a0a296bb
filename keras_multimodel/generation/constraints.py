"""Which ids may be written next: a base class, and the constraint of well-formed trees."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_multimodel.typing import Nested, Tensor


class Constraint:
    """Restricts at every step which ids may come next, so that every output is well-formed.

    A subclass keeps what it must know of each row in a state: a nested structure of tensors whose
    first axis is the batch. `allowed` and `advance` run inside a compiled loop: use tensors only,
    and keep their shapes. In every row that has not ended, at least one id must be allowed.

    A preprocessor may have a method `constraint()` that returns a `Constraint`:
    `MultiModel.generate` then uses it for the tasks that write with this preprocessor.

    Example:

    ```python
    class NoRepetition(kmm.generation.Constraint):
        def __init__(self, vocabulary_size):
            self.vocabulary_size = vocabulary_size

        def initial_state(self, inputs):
            return np.full((len(inputs),), -1, "int32")  # the id before

        def allowed(self, state, remaining):
            return ops.arange(self.vocabulary_size) != state[:, None]

        def advance(self, state, ids):
            return ids
    ```
    """

    def initial_state(self, inputs: list) -> Nested:
        """Returns the state before the first id, as NumPy arrays.

        Args:
            inputs: the raw inputs.

        Raises:
            NotImplementedError: a subclass does not define it.
        """
        raise NotImplementedError(f"`{type(self).__name__}` must implement `initial_state`.")

    def allowed(self, state: Nested, remaining: Tensor) -> Tensor:
        """Returns boolean `(batch, vocabulary_size)`, or one that broadcasts to it.

        Args:
            state: the state.
            remaining: int32 scalar, how many ids may still be written, including this one.

        Raises:
            NotImplementedError: a subclass does not define it.
        """
        raise NotImplementedError(f"`{type(self).__name__}` must implement `allowed`.")

    def advance(self, state: Nested, ids: Tensor) -> Nested:
        """Returns the state after one more id in each row.

        Args:
            state: the state before.
            ids: int32 `(batch,)`, the ids just written; 0 in rows that have ended.

        Raises:
            NotImplementedError: a subclass does not define it.
        """
        raise NotImplementedError(f"`{type(self).__name__}` must implement `advance`.")

    def minimum_length(self, inputs: list) -> list[int]:
        """Returns for each raw input the length of its shortest output, including the end."""
        return [1] * len(inputs)


_END_ID, _SPECIAL = 1, 3
_TAG, _OPEN, _CLOSE = 1, 2, 3


class TreeConstraint(Constraint):
    """Allows the symbols of one tree over exactly the words of the sentence.

    A phrase opens while words are left; a tag takes one word; a closing symbol has the label of the
    innermost open phrase, which must not be empty; the root closes after the last word. A phrase
    opens only if the remaining ids suffice to close it.

    Args:
        symbols: the symbols of a `keras_multimodel.data.TreePreprocessor`, whose ids start at 3.
        count_words: maps a raw input to its number of words.
        max_depth: most phrases open at once.

    Raises:
        ValueError: the symbols have no tag, or no phrase that they both open and close.
    """

    def __init__(self, symbols: list[str], count_words: Callable[[Any], int], max_depth: int = 200):
        self.count_words = count_words
        self.max_depth = max_depth
        closing = {s[1:] for s in symbols if s.startswith(")")}
        labels = sorted(closing & {s[1:] for s in symbols if s.startswith("(")})
        numbers = {label: i for i, label in enumerate(labels)}
        kinds = np.zeros(len(symbols) + _SPECIAL, "int32")
        self._labels = np.full(len(kinds), -1, "int32")
        for i, symbol in enumerate(symbols, start=_SPECIAL):
            if not symbol.startswith(("(", ")")):
                kinds[i] = _TAG
            elif symbol[1:] in numbers:
                kinds[i] = _OPEN if symbol.startswith("(") else _CLOSE
                self._labels[i] = numbers[symbol[1:]]
        if not {_TAG, _OPEN, _CLOSE} <= set(kinds.tolist()):
            raise ValueError(
                "`symbols` must have a tag, and a phrase that they open and close. "
                f"Received: symbols={symbols}"
            )
        self._kinds = kinds
        self._is_end = np.arange(len(kinds)) == _END_ID

    def minimum_length(self, inputs: list) -> list[int]:
        return [self.count_words(raw) + 3 for raw in inputs]

    def initial_state(self, inputs: list) -> dict:
        words = np.array([self.count_words(raw) for raw in inputs], "int32")
        return keras.tree.map_structure(ops.convert_to_numpy, self.state_of(words))

    def state_of(self, words: Tensor) -> dict:
        """Returns the state before the first id.

        Args:
            words: int32 `(batch,)`, the number of words of each input.
        """
        words = ops.convert_to_tensor(words)
        return {
            "words": words,  # those that have no tag yet
            "depth": ops.zeros_like(words),
            "labels": ops.zeros((ops.shape(words)[0], self.max_depth), "int32"),  # of open phrases
            "empty": ops.zeros_like(words, dtype="bool"),  # whether the innermost phrase is empty
            "complete": ops.zeros_like(words, dtype="bool"),
        }

    def allowed(self, state: dict, remaining: Tensor) -> Tensor:
        words, depth, complete = state["words"], state["depth"], state["complete"]
        # What must follow one more opening: a tag per word, the end of each open phrase and of this
        # one, and the end of the output.
        needed = words + depth + 2
        may_open = (words > 0) & (depth < self.max_depth) & (remaining > needed) & ~complete
        may_tag = (words > 0) & (depth > 0)
        may_close = (depth > 0) & ~state["empty"] & ((depth > 1) | (words == 0))
        place = ops.maximum(depth - 1, 0)[:, None]
        innermost = ops.take_along_axis(state["labels"], place, axis=1)
        kinds, labels = ops.convert_to_tensor(self._kinds), ops.convert_to_tensor(self._labels)
        closes = (kinds == _CLOSE) & (labels == innermost)
        return (
            ((kinds == _OPEN) & may_open[:, None])
            | ((kinds == _TAG) & may_tag[:, None])
            | (closes & may_close[:, None])
            | (ops.convert_to_tensor(self._is_end) & complete[:, None])
        )

    def advance(self, state: dict, ids: Tensor) -> dict:
        kinds = ops.take(ops.convert_to_tensor(self._kinds), ids, axis=0)
        labels = ops.take(ops.convert_to_tensor(self._labels), ids, axis=0)
        opens, closes = kinds == _OPEN, kinds == _CLOSE
        here = ops.arange(self.max_depth, dtype="int32") == state["depth"][:, None]
        depth = state["depth"] + ops.cast(opens, "int32") - ops.cast(closes, "int32")
        return {
            "words": state["words"] - ops.cast(kinds == _TAG, "int32"),
            "depth": depth,
            "labels": ops.where(here & opens[:, None], labels[:, None], state["labels"]),
            "empty": opens,
            "complete": state["complete"] | (closes & (depth == 0)),
        }
