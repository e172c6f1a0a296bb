"""The mixer, where the outputs written so far attend to the input."""

from collections.abc import Iterable, Sequence

import keras
from keras import ops

from keras_multimodel.generation.caches import BlockChain
from keras_multimodel.layers.blocks import build_block, call_block, takes
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.models.encoder import deserialize_layers
from keras_multimodel.typing import Nested, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Mixer(keras.layers.Layer):
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

    def __init__(
        self,
        attention: keras.layers.Layer | None = None,
        blocks: Iterable[keras.layers.Layer] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.attention = attention
        self.blocks = list(blocks)
        self.reads_source = attention is not None and takes(attention, "source")
        self.join_norm = None
        if not self.reads_source:
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
        return [
            self._mix(*sequence, training)
            for sequence in zip(targets, sources, masks, source_masks)
        ]

    def _mix(self, x, source, mask, source_mask, training):
        if self.join_norm is not None:
            x = self.join_norm(x + _aligned(source, source_mask, ops.shape(x)[1]))
        arguments = {"mask": mask, "source": source, "source_mask": source_mask}
        if self.attention is not None:
            x = call_block(self.attention, x, training, **arguments)
        for block in self.blocks:
            x = call_block(block, x, training, mask=mask)
        return x

    def initial_cache(
        self, batch_size: int, max_length: int, source: Tensor, source_mask: Tensor
    ) -> dict[str, Nested]:
        """Returns the caches of the blocks; see `SteppingBlock`."""
        blocks = self._chain().initial_cache(batch_size, max_length, source, source_mask)
        if self.reads_source:
            return {"blocks": blocks}
        return {"blocks": blocks, "source": _aligned(source, source_mask, max_length)}

    def step(
        self, inputs: Tensor, cache: dict[str, Nested], index: Tensor
    ) -> tuple[Tensor, dict[str, Nested]]:
        """Maps position `index`, `(batch, hidden_dim)`, to its output; see `SteppingBlock`."""
        x = inputs
        if self.join_norm is not None:
            x = self.join_norm(x + ops.take(cache["source"], index, axis=1))
        x, blocks = self._chain().step(x, cache["blocks"], index)
        return x, {**cache, "blocks": blocks}

    def reorder_cache(self, cache: dict[str, Nested], rows: Tensor) -> dict[str, Nested]:
        """Returns the caches with row `i` of the batch taken from `rows[i]`."""
        return {**cache, "blocks": self._chain().reorder_cache(cache["blocks"], rows)}

    def _chain(self):
        return BlockChain([x for x in (self.attention, *self.blocks) if x is not None])

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_spec(self, targets, sources, masks, source_masks, training=None):
        return [keras.KerasTensor(x.shape, dtype=self.compute_dtype) for x in targets]

    def get_config(self):
        layers = {"attention": self.attention, "blocks": self.blocks}
        return {**super().get_config(), **keras.saving.serialize_keras_object(layers)}

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_layers(config, "attention", "blocks"))


def _aligned(source, source_mask, length):
    """Returns the source at `length` positions, plus its mean: `(batch, length, hidden_dim)`."""
    weights = ops.cast(source_mask, source.dtype)[..., None]
    source = source * weights
    mean = ops.sum(source, axis=1, keepdims=True) / ops.maximum(
        ops.sum(weights, axis=1, keepdims=True), 1
    )
    return ops.pad(source, [[0, 0], [0, length], [0, 0]])[:, :length] + mean
