"""The mixer, where the outputs written so far attend to the input."""

from collections.abc import Iterable, Sequence

import keras
from keras import ops

from keras_multimodel.generation.caches import BlockChain
from keras_multimodel.layers.blocks import build_block, call_block, takes
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.models.encoder import ListLayer
from keras_multimodel.typing import Nested, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Mixer(ListLayer):
    """One attention block and causal convolution blocks.

    Without a block that attends to a source, the mixer adds the encoded input position by position,
    cut or padded to the length of the targets, and its mean at every position, as convolutional
    sequence models do. The decoder would be a language model otherwise.

    Args:
        attention: layer called with the targets and the source, or None.
        blocks: causal layers that map `(batch, length, hidden_dim)` to itself.

    Call arguments:
        targets: list of `(batch_i, length_i, hidden_dim)`, shifted right.
        sources: list of the encoded inputs, `(batch_i, source_length_i, hidden_dim)`.
        masks: list of boolean `(batch_i, length_i)`.
        source_masks: list of boolean `(batch_i, source_length_i)`.

    Returns:
        list of `(batch_i, length_i, hidden_dim)`.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.4.
    """

    layer_names = ("attention", "blocks")

    def __init__(
        self,
        attention: keras.layers.Layer | None = None,
        blocks: Iterable[keras.layers.Layer] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.attention = attention
        self.blocks = list(blocks)
        self.join_norm = None
        # A user's attention block may see the targets only: asked by its signature, not its class.
        if attention is None or not takes(attention, "source"):
            self.join_norm = LayerNorm(dtype=self.dtype_policy, name="join_norm")

    def build(self, input_shape: Sequence[Shape]):
        hidden_dim = input_shape[0][-1]
        for block in (self.attention, *self.blocks):
            build_block(block, hidden_dim)
        if self.join_norm is not None:
            self.join_norm.build((None, None, hidden_dim))

    def call(
        self,
        targets: list[Tensor],
        sources: list[Tensor],
        masks: list[Tensor],
        source_masks: list[Tensor],
        training: bool | None = None,
    ):
        # One group of tasks after the other, since their lengths differ.
        sequences = zip(targets, sources, masks, source_masks)
        return [self._mix(*sequence, training) for sequence in sequences]

    def _mix(self, x, source, mask, source_mask, training):
        if self.join_norm is not None:
            x = self.join_norm(x + _aligned(source, source_mask, ops.shape(x)[1]))
        if self.attention is not None:
            source = {"source": source, "source_mask": source_mask}
            x = call_block(self.attention, x, training, mask=mask, **source)
        for block in self.blocks:
            x = call_block(block, x, training, mask=mask)
        return x

    def initial_cache(
        self, batch_size: int, max_length: int, source: Tensor, source_mask: Tensor
    ) -> dict[str, Nested]:
        """Returns the caches of the blocks; see `SteppingBlock`."""
        blocks = self._chain().initial_cache(batch_size, max_length, source, source_mask)
        if self.join_norm is None:
            return {"blocks": blocks}
        return {"blocks": blocks, "source": _aligned(source, source_mask, max_length)}

    def step(
        self, inputs: Tensor, cache: dict[str, Nested], index: Tensor
    ) -> tuple[Tensor, dict[str, Nested]]:
        """Maps position `index`, `(batch, hidden_dim)`, to its output; see `SteppingBlock`."""
        x = inputs
        # Aligned once, for all positions that may come; a step takes its own.
        if self.join_norm is not None:
            x = self.join_norm(x + ops.take(cache["source"], index, axis=1))
        x, blocks = self._chain().step(x, cache["blocks"], index)
        return x, {**cache, "blocks": blocks}

    def reorder_cache(self, cache: dict[str, Nested], rows: Tensor) -> dict[str, Nested]:
        """Returns the caches with row `i` of the batch taken from `rows[i]`."""
        return {**cache, "blocks": self._chain().reorder_cache(cache["blocks"], rows)}

    def layers_in_order(self) -> list[keras.layers.Layer]:
        """Returns the blocks in their order."""
        return [x for x in (self.attention, *self.blocks) if x is not None]

    def _chain(self):
        return BlockChain(self.layers_in_order())


def _aligned(source, source_mask, length):
    """Returns the source at `length` positions, plus its mean: `(batch, length, hidden_dim)`.

    Positions count without padding, which stands between the parts of a row too.
    """
    rows, size = ops.shape(source)[:2]
    places = ops.arange(size)[None]
    order = ops.argsort(ops.where(source_mask, places, places + size), axis=1)
    # By the rows of one matrix: what `take_along_axis` does with a third axis differs by backend.
    flat = ops.cast(order, places.dtype) + size * ops.arange(rows)[:, None]
    source = ops.take(ops.reshape(source, (-1, source.shape[-1])), flat, axis=0)
    source_mask = ops.take(ops.reshape(source_mask, (-1,)), flat, axis=0)
    weights = ops.cast(source_mask, source.dtype)[..., None]
    source = source * weights
    # A row that is all padding has a mean of 0, not 0 / 0.
    count = ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
    mean = ops.sum(source, axis=1, keepdims=True) / count
    return ops.pad(source, [[0, 0], [0, length], [0, 0]])[:, :length] + mean
