"""What lets a causal block go through a sequence one position at a time."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class SteppingBlock(Protocol):
    """The protocol of a block that generates with a cache, at the same cost for every position.

    A block of a decoder maps `(batch, length, hidden_dim)` to itself and sees no later position. If
    it has these methods, `MultiModel.generate` calls them instead; they need no base class.
    Stepping through a sequence must give what one call on the whole of it gives. A block without
    them, or whose class inherits them and has a `call` of its own, still generates: its inputs are
    kept, and it is called on all of them at every step. A block that treats every position alone,
    `position_wise = True`, needs neither.

    Methods run inside a compiled loop: tensors only, shapes that do not change. They are called as
    they are, not through `__call__`: under a mixed dtype policy they cast weights themselves, and
    updates of variables are dropped.

    Example:

    ```python
    class RunningMean(keras.layers.Layer):
        def call(self, inputs):
            count = ops.arange(1, ops.shape(inputs)[1] + 1, dtype=inputs.dtype)
            return ops.cumsum(inputs, axis=1) / count[:, None]

        def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
            return ops.zeros((batch_size, 64))

        def step(self, inputs, cache, index):
            cache = cache + inputs
            return cache / ops.cast(index + 1, cache.dtype), cache
    ```
    """

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        """Returns the cache before the first position.

        Args:
            batch_size: rows of the batch, an integer.
            max_length: positions that may come, an integer.
            source: the encoded input `(batch, source_length, hidden_dim)`, for blocks that attend
                to it: what they need of it is computed here, once.
            source_mask: boolean `(batch, source_length)`, True at real positions.

        Returns:
            A nested structure of tensors, the batch their first axis; `()` if nothing is kept.
        """

    def step(self, inputs, cache, index):
        """Maps one position.

        Args:
            inputs: `(batch, hidden_dim)`, the position `index`.
            cache: what `initial_cache`, or the step before, returned.
            index: int32 scalar tensor, from 0.

        Returns:
            `(batch, hidden_dim)`, and the cache for the next position.
        """

    # A third method is looked for only by beam search, and only needed by a cache of which some
    # tensor has its batch on another axis than the first:
    #     reorder_cache(cache, rows) -> the cache with row i taken from `rows[i]`, int32 `(batch,)`
