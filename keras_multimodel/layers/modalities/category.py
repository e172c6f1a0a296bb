"""Classes out, and in."""

from typing import Any

import keras
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.adaptable import Embedding
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.layers.modalities.xception import ExitFlow
from keras_multimodel.layers.sublayers import set_sublayer_states, sublayer_states
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class CategoryModality(ModalityNet):
    """Predicts a class with the exit flow of Xception, or embeds one.

    An input that came as a grid, such as an image, gets that form back and is classified by 3x3
    convolutions, any other by convolutions over the sequence (see `ExitFlow`); the first call
    decides. Only the directions in use own weights.

    Args:
        num_classes: number of classes.
        hidden_dim: width of the body's representation.
        preprocessor: turns a raw label into a class id and back; see `ModalityNet`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: class ids `(batch,)`; with `reverse=True` the body's output `(batch, length,
            hidden_dim)`, which for a grid may be longer than `like`: the rest is cut off.
        mask: boolean `(batch, length)`, True where the body's output is real. Not used for grids,
            which have no padding.
        reverse: whether to predict a class instead of embedding one.
        like: with `reverse=True`, the encoded input before it was flattened; of rank 4 for a grid.

    Returns:
        `(batch, 1, hidden_dim)`; with `reverse=True` logits `(batch, num_classes)`.

    Raises:
        ValueError: `num_classes` is not a positive integer, `inputs` have a wrong shape or dtype,
            or `like` has another form than in the first call.

    Example:

    >>> net = kmm.layers.CategoryModality(10, hidden_dim=16)
    >>> grid = np.ones((2, 3, 4, 16), "float32")
    >>> net(grid.reshape(2, 12, 16), reverse=True, like=grid).shape
    (2, 10)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5.3.
    """

    example_shape = ()
    example_dtype = "int32"

    def __init__(self, num_classes: int, hidden_dim: int, preprocessor: Any = None, **kwargs):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        self.num_classes = positive_int("num_classes", num_classes)
        # Made by the first call in their direction: a sublayer that exists and is never built makes
        # `quantize` and `enable_lora` fail.
        self.embedding: Any = None
        self.exit_flow: Any = None

    @property
    def num_ids(self) -> int:
        return self.num_classes

    def build(self, inputs_shape: Shape, like_shape: Shape | None = None):
        with _keras_compat.open_to_sublayers(self):  # the other direction may be built already
            if len(inputs_shape) == 1:
                size = self.num_classes, self.hidden_dim
                initializer = keras.initializers.RandomNormal(stddev=1.0)
                self.embedding = self.make(Embedding, (None,), *size, initializer, name="embedding")
            elif len(inputs_shape) == 3:
                rank = 4 if like_shape is not None and len(like_shape) == 4 else 3
                shape = (None,) * (rank - 1) + (self.hidden_dim,)
                self.exit_flow = self.make(ExitFlow, shape, self.num_classes, name="exit_flow")

    def encode(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self._prepare_encode(inputs)
        return self.embedding(inputs)[:, None]

    def decode(
        self, inputs: Tensor, mask: Tensor | None = None, like: Tensor | None = None
    ) -> Tensor:
        self._prepare_decode(inputs, like)
        if self.exit_flow.rank == 3:
            return self.exit_flow(inputs, mask=mask)
        # The encoder pads a step's sequences to one length, so a grid may have positions behind it.
        _, height, width, _ = ops.shape(like)
        grid = inputs[:, : height * width]
        return self.exit_flow(ops.reshape(grid, (-1, height, width, self.hidden_dim)))

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        reverse: bool = False,
        like: Tensor | None = None,
    ) -> keras.KerasTensor:
        if reverse:
            self._prepare_decode(inputs, like)
            shape = (inputs.shape[0], self.num_classes)
        else:
            self._prepare_encode(inputs)
            shape = (inputs.shape[0], 1, self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> None:
        return None  # one position, or logits

    # Keras' own would hold the shape of the first call only, which is one direction.
    def get_build_config(self):
        rank = getattr(self.exit_flow, "rank", None)
        config = {"encodes": self.embedding is not None, "rank": rank}
        states = sublayer_states(self)
        return {**config, "sublayers": states} if states else config

    def build_from_config(self, config: dict):
        if config["encodes"]:
            self.build((None,))
        if config["rank"]:
            self.build((None, None, self.hidden_dim), like_shape=(None,) * config["rank"])
        if config.get("sublayers"):
            # Last: a state belongs to a sublayer, and is lost on one that does not exist yet.
            set_sublayer_states(self, config["sublayers"])

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}

    def _prepare_encode(self, inputs):
        """Checks the ids, and builds the embedding if this is its first use."""
        if len(inputs.shape) != 1 or not keras.backend.is_int_dtype(inputs.dtype):
            raise ValueError(
                "`inputs` must be class ids: integers of the shape (batch,). "
                f"Received: inputs.shape={tuple(inputs.shape)}, inputs.dtype={inputs.dtype}"
            )
        if self.embedding is None:
            self.build((None,))

    def _prepare_decode(self, inputs, like):
        """Checks the arguments, and builds the exit flow if this is its first use."""
        shape, like_shape = tuple(inputs.shape), None if like is None else tuple(like.shape)
        if len(shape) != 3 or shape[-1] != self.hidden_dim:
            raise ValueError(
                f"`inputs` must have the shape (batch, length, hidden_dim={self.hidden_dim}). "
                f"Received: inputs.shape={shape}"
            )
        if self.exit_flow is None:
            self.build(shape, like_shape=like_shape)
        is_grid = like_shape is not None and len(like_shape) == 4
        rank = getattr(self.exit_flow, "rank", None)
        if is_grid != (rank == 4):
            raise ValueError(
                f"`like` must have rank {rank}, as in the first call: one net "
                f"reads grids (rank 4) or sequences, not both. Received: like.shape={like_shape}"
            )
        sizes: list[Any] = [shape[1], *like_shape[1:3]] if is_grid and like_shape else [None]
        # A size that the graph does not know yet cannot be checked.
        if all(isinstance(size, int) for size in sizes) and sizes[0] < sizes[1] * sizes[2]:
            raise ValueError(
                f"`inputs` must have at least the {sizes[1] * sizes[2]} positions of `like`. "
                f"Received: inputs.shape={shape}, like.shape={like_shape}"
            )
