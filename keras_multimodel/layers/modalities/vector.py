"""What nets of vectors share: they read one as positions, and write one from the body's mean."""

from typing import Any

import keras
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.layers.adaptable import Dense
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.layers.sublayers import set_sublayer_states, sublayer_states
from keras_multimodel.ops.numerics import at_least_float32
from keras_multimodel.typing import Shape, Tensor


class VectorNet(ModalityNet):
    """A net whose example is a vector of a fixed size, read and written.

    The prediction is two dense layers on the mean over real positions. Only the directions in use
    own weights: a subclass makes those of `encode` in `build_encode`, and reads in `read`.

    Args:
        size: length of the vector.
        hidden_dim: width of the body's representation.
        preprocessor: see `ModalityNet`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.
    """

    nan_is_gap = True

    def __init__(self, size: int, hidden_dim: int, preprocessor: Any = None, **kwargs):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        self.example_shape = (size,)
        # Without Keras' cast of inputs: large values would be infinite in float16.
        self.autocast = False
        self.encodes = False
        # Made by the first call in its direction: a sublayer that is never built makes `quantize`
        # and `enable_lora` fail.
        self.hidden: Any = None
        self.head: Any = None

    def build_encode(self) -> None:
        """Makes the weights of `read`."""
        raise NotImplementedError(f"`{type(self).__name__}` must implement `build_encode`.")

    def read(self, inputs: Tensor) -> Tensor:
        """Maps `(batch, size)` to `(batch, positions, hidden_dim)`."""
        raise NotImplementedError(f"`{type(self).__name__}` must implement `read`.")

    @property
    def num_positions(self) -> int:
        """How many positions `read` returns."""
        return 1

    def build(self, input_shape: Shape):
        with _keras_compat.open_to_sublayers(self):  # the other direction may be built already
            if len(input_shape) == 2 and not self.encodes:
                self.encodes = True
                self.build_encode()
            elif len(input_shape) == 3 and self.head is None:
                rows, options = (None, self.hidden_dim), {"activation": "relu", "name": "hidden"}
                self.hidden = self.make(Dense, rows, self.hidden_dim, **options)
                self.head = self.make(Dense, rows, self.example_shape[0], name="head")

    def encode(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self.check_examples(inputs, "vectors")
        self.build(inputs.shape)
        return self.read(inputs)

    def decode(
        self, inputs: Tensor, mask: Tensor | None = None, like: Tensor | None = None
    ) -> Tensor:
        self.build(inputs.shape)
        x = at_least_float32(inputs)
        weights = ops.ones_like(x[..., :1])
        if mask is not None:
            weights = ops.cast(mask, x.dtype)[..., None]
        # A row that is all padding has a mean of 0, not 0 / 0.
        mean = ops.sum(x * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
        return self.head(self.hidden(ops.cast(mean, self.compute_dtype)))

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        reverse: bool = False,
        like: Tensor | None = None,
    ) -> keras.KerasTensor:
        if not reverse:
            self.check_examples(inputs, "vectors")
        self.build(inputs.shape)
        shape = self.example_shape if reverse else (self.num_positions, self.hidden_dim)
        return keras.KerasTensor((inputs.shape[0], *shape), dtype=self.compute_dtype)

    # Keras' own would hold the shape of the first call only, which is one direction.
    def get_build_config(self):
        config = {"encodes": self.encodes, "decodes": self.head is not None}
        states = sublayer_states(self)
        return {**config, "sublayers": states} if states else config

    def build_from_config(self, config: dict):
        if config["encodes"]:
            self.build((None, *self.example_shape))
        if config["decodes"]:
            self.build((None, None, self.hidden_dim))
        if config.get("sublayers"):
            set_sublayer_states(self, config["sublayers"])
