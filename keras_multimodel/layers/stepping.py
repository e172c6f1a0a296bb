"""The protocol of a block that reads a sequence one position at a time."""

from typing import Protocol, runtime_checkable

import keras
from keras import ops

from keras_multimodel.ops.numerics import corner
from keras_multimodel.ops.portable import without_xla
from keras_multimodel.typing import Nested, Tensor


@runtime_checkable
class SteppingBlock(Protocol):
    """A block that generates with a cache, at the same cost for every position.

    A decoder block maps `(batch, length, hidden_dim)` to itself and sees no later position. If it
    also has the two methods below, `MultiModel.generate` calls them instead of `call`. No base
    class is needed. Stepping through a sequence must give what one call on the whole of it gives.

    A block without the methods still generates: its inputs are kept, and the block is called on all
    of them for every new position. The same happens to a class that inherits the methods and
    overrides `call`, since the inherited step would compute something else. A block that treats
    every position independently sets `position_wise = True` and needs neither method.

    The methods run inside a compiled loop: use tensors only, and keep their shapes. They are called
    directly, not through `__call__`: under a mixed dtype policy they cast weights themselves, and
    updates of variables are dropped.

    Example:

    ```python
    class RunningMean(keras.layers.Layer):
        def call(self, inputs):
            count = keras.ops.arange(1, keras.ops.shape(inputs)[1] + 1, dtype=inputs.dtype)
            return keras.ops.cumsum(inputs, axis=1) / count[:, None]

        def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
            return keras.ops.zeros((batch_size, 64))

        def step(self, inputs, cache, index):
            cache = cache + inputs
            return cache / keras.ops.cast(index + 1, cache.dtype), cache
    ```
    """

    def initial_cache(
        self,
        batch_size: int,
        max_length: int,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Nested:
        """Returns the cache before the first position.

        Args:
            batch_size: number of rows.
            max_length: most positions that may come.
            source: encoded input `(batch, source_length, hidden_dim)`. A block that attends to it
                computes here, once, what its steps need of it.
            source_mask: boolean `(batch, source_length)`, True at real positions.

        Returns:
            A nested structure of tensors whose first axis is the batch; `()` if nothing is kept.
        """

    def step(self, inputs: Tensor, cache: Nested, index: Tensor) -> tuple[Tensor, Nested]:
        """Maps one position.

        Args:
            inputs: `(batch, hidden_dim)`, the position `index`.
            cache: what `initial_cache` or the previous step returned.
            index: int32 scalar tensor, from 0.

        Returns:
            `(batch, hidden_dim)`, and the cache for the next position.
        """
        ...

    # A third method is optional. Beam search calls it to exchange rows of the cache, and takes
    # them along the first axis of every tensor where a block has no such method:
    #     reorder_cache(cache, rows) -> the cache with row i taken from `rows[i]`, int32 `(batch,)`,
    #     a row of the same example


def can_step(block: keras.layers.Layer) -> bool:
    """Returns whether a block follows `SteppingBlock`, with a `step` that fits its `call`.

    It does not fit if a subclass overrides `call` but inherits `step`.
    """
    if not isinstance(block, SteppingBlock):
        return False
    # The first class in the order of inheritance that defines `step` must not come after the first
    # that defines `call`.
    classes = type(block).__mro__
    step, call = (
        next((i for i, c in enumerate(classes) if name in vars(c)), 0) for name in ("step", "call")
    )
    return step <= call


def write_position(buffer: Tensor, values: Tensor, index: Tensor, axis: int = 1) -> Tensor:
    """Returns a buffer with one position replaced.

    Args:
        buffer: tensor of static shape.
        values: the shape of `buffer` without `axis`.
        index: int32 scalar, the position on `axis`.
        axis: the axis of positions.
    """
    if without_xla():  # of which Keras' update of a slice is an operation
        places = [-1 if i == axis else 1 for i in range(len(buffer.shape))]
        here = ops.reshape(ops.arange(buffer.shape[axis], dtype="int32") == index, places)
        return ops.where(here, ops.expand_dims(values, axis), buffer)
    start = [index if i == axis else 0 for i in range(len(buffer.shape))]
    return ops.slice_update(buffer, corner(*start), ops.expand_dims(values, axis))
