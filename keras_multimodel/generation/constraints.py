"""What may be written.

Well-formed trees only."""

import numpy as np
from keras import ops


class Constraint:
    """Says at every step which ids may come next, so that every output is well-formed.

    A subclass keeps what it must know of each row in a state: a nested structure of tensors, the
    batch their first axis. `allowed` and `advance` run inside a compiled loop: tensors only, shapes
    that do not change. In every row that has not ended, at least one id must be allowed.

    A preprocessor whose raw targets have a form returns one from a method `constraint()`, and
    `MultiModel.generate` then uses it.

    Example:

    ```python
    class NoRepetition(Constraint):
        def initial_state(self, inputs):
            return np.full((len(inputs),), -1, "int32")

        def allowed(self, state, remaining):
            return ops.arange(vocabulary_size) != state[:, None]

        def advance(self, state, ids):
            return ids
    ```
    """

    def initial_state(self, inputs: list):
        """Returns the state before the first id, as NumPy arrays.

        Args:
            inputs: the raw inputs.

        Raises:
            NotImplementedError: a subclass does not define it.
        """
        raise NotImplementedError(f"`{type(self).__name__}` must implement `initial_state`.")

    def allowed(self, state, remaining):
        """Returns boolean `(batch, vocabulary_size)`, or one that broadcasts to it.

        Args:
            state: the state.
            remaining: int32 scalar, how many ids may still be written, this one included.

        Raises:
            NotImplementedError: a subclass does not define it.
        """
        raise NotImplementedError(f"`{type(self).__name__}` must implement `allowed`.")

    def advance(self, state, ids):
        """Returns the state after `ids`, int32 `(batch,)`; 0 in rows that have ended.

        Args:
            state: the state before them.
            ids: those just written.

        Raises:
            NotImplementedError: a subclass does not define it.
        """
        raise NotImplementedError(f"`{type(self).__name__}` must implement `advance`.")

    def minimum_length(self, inputs: list) -> list[int]:
        """Returns for each raw input how many ids its shortest output has, the end included."""
        return [1] * len(inputs)


_END_ID, _SPECIAL = 1, 3
_TAG, _OPEN, _CLOSE = 1, 2, 3


class TreeConstraint(Constraint):
    """Allows the symbols of one tree over exactly the words of the sentence.

    A phrase opens while words are left, a tag takes one word, a closing symbol has the label of the
    innermost open phrase, which must not be empty; the root closes after the last word. No phrase
    opens that the ids left could not close.

    Args:
        symbols: as `keras_multimodel.data.TreePreprocessor` has them: ids from 3 on.
        count_words: from a raw input to its number of words.
        max_depth: most phrases open at once.

    Raises:
        ValueError: the symbols have no tag, or no phrase that they open and close.
    """

    def __init__(self, symbols: list[str], count_words, max_depth: int = 200):
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

    def initial_state(self, inputs: list):
        words = np.array([self.count_words(raw) for raw in inputs], "int32")
        return {
            "words": words,  # that have no tag yet
            "depth": np.zeros_like(words),
            "labels": np.zeros((len(inputs), self.max_depth), "int32"),  # of the open phrases
            "empty": np.zeros(len(inputs), "bool"),  # whether the innermost one has nothing in it
            "complete": np.zeros(len(inputs), "bool"),
        }

    def allowed(self, state, remaining):
        words, depth, complete = state["words"], state["depth"], state["complete"]
        # Once one more phrase is open: a tag a word, its end, the ends of the others, the end.
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

    def advance(self, state, ids):
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
