"""The decoder, and the token that tells it which task to do."""

from collections.abc import Iterable, Sequence

import keras
from keras import ops

from keras_multimodel.generation.caches import BlockChain
from keras_multimodel.layers.blocks import build_block, call_block, call_position_wise
from keras_multimodel.models.encoder import ListLayer
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class CommandToken(keras.layers.Layer):
    """Shifts embedded targets right by one and puts a learned vector, such as To-German, in front.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`, embedded targets.

    Returns:
        `(batch, length, hidden_dim)`: the command, then all targets but the last.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.4.
    """

    def build(self, input_shape: Shape):
        # Embedded ids have about unit variance per channel, and so has the command.
        self.command = self.add_weight(
            name="command",
            shape=(input_shape[-1],),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
        )

    def call(self, inputs: Tensor):
        command = ops.cast(self.command, inputs.dtype)
        first = ops.ones_like(inputs[:, :1]) * command
        return ops.concatenate([first, inputs], axis=1)[:, :-1]

    def step(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Returns what position `index` sees: the command at 0, then the embedded id before it.

        Args:
            inputs: `(batch, hidden_dim)`, the embedded id.
            index: int32 scalar.
        """
        # The index is a tensor: the loop over positions is compiled.
        return ops.where(index == 0, ops.cast(self.command, inputs.dtype), inputs)

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_shape(self, input_shape: Shape):
        return input_shape


@keras.saving.register_keras_serializable(package="keras_multimodel")
class PartEmbedding(keras.layers.Layer):
    """Adds a learned vector that marks one part of a row, such as its title.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`.

    Returns:
        `(batch, length, hidden_dim)`.
    """

    def build(self, input_shape: Shape):
        self.embedding = self.add_weight(
            name="embedding",
            shape=(input_shape[-1],),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
        )

    def call(self, inputs: Tensor):
        return inputs + ops.cast(self.embedding, inputs.dtype)

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_shape(self, input_shape: Shape):
        return input_shape


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Decoder(ListLayer):
    """Blocks of causal convolution and attention to the source, with experts in the middle of them.

    Args:
        blocks: list of lists of causal layers; each is called with the targets and, if its `call`
            takes one, the source.
        experts: layer that stands in the middle of the blocks, or None.

    Call arguments:
        targets: list of `(batch_i, length_i, hidden_dim)`, from the mixer.
        sources: list of the encoded inputs, `(batch_i, source_length_i, hidden_dim)`.
        masks: list of boolean `(batch_i, length_i)`.
        source_masks: list of boolean `(batch_i, source_length_i)`.

    Returns:
        list of `(batch_i, length_i, hidden_dim)`.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.4.
    """

    layer_names = ("blocks", "experts")

    def __init__(
        self,
        blocks: Iterable[Sequence[keras.layers.Layer]],
        experts: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.blocks = [list(block) for block in blocks]
        self.experts = experts

    def build(self, input_shape: Sequence[Shape]):
        for block in (*sum(self.blocks, []), self.experts):
            build_block(block, input_shape[0][-1])

    def call(
        self,
        targets: list[Tensor],
        sources: list[Tensor],
        masks: list[Tensor],
        source_masks: list[Tensor],
        training: bool | None = None,
    ):
        x = list(targets)
        for layer in self.layers_in_order():
            if layer is self.experts:
                x = call_position_wise(layer, x, masks, training)
                continue
            x = [
                call_block(layer, s, training, mask=mask, source=source, source_mask=source_mask)
                for s, mask, source, source_mask in zip(x, masks, sources, source_masks)
            ]
        return x

    def layers_in_order(self) -> list[keras.layers.Layer]:
        """Returns all layers in their order. Without blocks there is no middle, and no experts."""
        middle = len(self.blocks) // 2
        experts = [self.experts] if self.blocks and self.experts is not None else []
        return sum(self.blocks[:middle], []) + experts + sum(self.blocks[middle:], [])

    def initial_cache(
        self, batch_size: int, max_length: int, source: Tensor, source_mask: Tensor
    ) -> list:
        """Returns the caches of the blocks; see `SteppingBlock`."""
        return self._chain().initial_cache(batch_size, max_length, source, source_mask)

    def step(self, inputs: Tensor, cache: list, index: Tensor) -> tuple[Tensor, list]:
        """Maps position `index`, `(batch, hidden_dim)`, to its output; see `SteppingBlock`."""
        return self._chain().step(inputs, cache, index)

    def reorder_cache(self, cache: list, rows: Tensor) -> list:
        """Returns the caches with row `i` of the batch taken from `rows[i]`."""
        return self._chain().reorder_cache(cache, rows)

    def _chain(self):
        return BlockChain(self.layers_in_order())
