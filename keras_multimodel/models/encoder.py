"""The encoder."""

from collections.abc import Iterable, Sequence

import keras

from keras_multimodel import _keras_compat
from keras_multimodel.layers.blocks import build_block, call_block, call_position_wise
from keras_multimodel.typing import Shape, Tensor


class ListLayer(keras.layers.Layer):
    """A layer made of other layers, from lists of sequences to lists of sequences.

    The first argument of its `call` is a list of `(batch_i, length_i, hidden_dim)`, and so is what
    it returns. A subclass keeps the layers that are its arguments under their own names.
    """

    layer_names: tuple[str, ...] = ()

    @property
    def output(self):
        """The symbolic outputs of the last call; Keras has those of the first.

        It checks a new graph by their number, and models that share this layer have as many as they
        have groups of tasks.
        """
        return _keras_compat.last_output(self)

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_spec(self, inputs, *args, **kwargs):
        return [keras.KerasTensor(x.shape, dtype=self.compute_dtype) for x in inputs]

    def get_config(self):
        layers = {name: getattr(self, name) for name in self.layer_names}
        return {**super().get_config(), **keras.saving.serialize_keras_object(layers)}

    @classmethod
    def from_config(cls, config):
        names = cls.layer_names
        layers = {name: keras.saving.deserialize_keras_object(config[name]) for name in names}
        return cls(**{**config, **layers})


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Encoder(ListLayer):
    """A timing signal, convolution blocks, and experts in the middle of them.

    Several groups of sequences, each with a length of its own, pass at once: convolutions treat
    them separately, and experts all together.

    Args:
        blocks: layers that map `(batch, length, hidden_dim)` to itself.
        experts: layer that stands in the middle of the blocks, or None.
        timing: layer that marks positions, called first, or None.

    Call arguments:
        inputs: list of `(batch_i, length_i, hidden_dim)`.
        masks: list of boolean `(batch_i, length_i)`, True at real positions.

    Returns:
        list of `(batch_i, length_i, hidden_dim)`.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.4.
    """

    layer_names = ("blocks", "experts", "timing")

    def __init__(
        self,
        blocks: Iterable[keras.layers.Layer],
        experts: keras.layers.Layer | None = None,
        timing: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.blocks = list(blocks)
        self.experts = experts
        self.timing = timing

    def build(self, input_shape: Sequence[Shape]):
        # Here, since `compute_output_spec` spares the graph a trace of `call`, which builds layers.
        for block in (self.timing, *self.blocks, self.experts):
            build_block(block, input_shape[0][-1])

    def call(self, inputs: list[Tensor], masks: list[Tensor], training: bool | None = None):
        x = list(inputs)
        for layer in self.layers_in_order():
            if layer is self.timing:
                x = [layer(s) for s in x]
            elif layer is self.experts:
                x = call_position_wise(layer, x, masks, training)
            else:
                x = [call_block(layer, s, training, mask=mask) for s, mask in zip(x, masks)]
        return x

    def layers_in_order(self) -> list[keras.layers.Layer]:
        """Returns all layers in their order."""
        middle = len(self.blocks) // 2
        layers = [self.timing, *self.blocks[:middle], self.experts, *self.blocks[middle:]]
        return [layer for layer in layers if layer is not None]
