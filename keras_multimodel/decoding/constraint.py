"""What may be written."""


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
