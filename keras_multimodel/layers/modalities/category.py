"""Classes out, and in."""

import math

import keras
from keras import ops

from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.layers.modalities.xception import ExitFlow


@keras.saving.register_keras_serializable(package="keras_multimodel")
class CategoryModality(ModalityNet):
    """Predicts a class with the exit flow of Xception, or embeds one.

    An input that came as a grid, such as an image, is put back into that form and classified by
    3x3 convolutions, any other by convolutions over the sequence (see `ExitFlow`). The first
    call settles which. Only the directions in use own weights.

    Args:
        num_classes: number of classes.
        hidden_dim: width of the body's representation.
        preprocessor: turns a raw label into a class id and back; see `ModalityNet`.

    Call arguments:
        inputs: class ids `(batch,)`; with `reverse=True` the body's output `(batch, length,
            hidden_dim)`, which for a grid may be longer than `like`: the rest is cut off.
        mask: boolean `(batch, length)`, True where the body's output is real. A grid is real
            throughout.
        reverse: whether to predict a class instead of embedding one.
        like: with `reverse=True`, the encoded input before it was flattened. Of rank 4 it asks
            for the form of a grid.

    Returns:
        `(batch, 1, hidden_dim)`; with `reverse=True` logits `(batch, num_classes)`.

    Raises:
        ValueError: `num_classes` is not a positive integer, `inputs` have a wrong shape or dtype,
            or `like` asks for another form than the first call did.

    Example:

    >>> CategoryModality(10, 128)(encoded, reverse=True, like=grid).shape
    (64, 10)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5.3.
    """

    example_shape = ()
    example_dtype = "int32"

    def __init__(self, num_classes: int, hidden_dim: int, preprocessor=None, **kwargs):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        self.num_classes = num_classes
        self.exit_flow = ExitFlow(num_classes, dtype=self.dtype_policy, name="exit_flow")
        self.embedding = keras.layers.Embedding(
            num_classes,
            hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0),
            dtype=self.dtype_policy,
            name="embedding",
        )

    def build(self, inputs_shape, like_shape=None):
        if len(inputs_shape) == 1:
            self.embedding.build((None,))
        elif len(inputs_shape) == 3:
            rank = 4 if like_shape is not None and len(like_shape) == 4 else 3
            self.exit_flow.build((None,) * (rank - 1) + (self.hidden_dim,))

    def encode(self, inputs, mask=None):
        self._prepare_encode(inputs)
        return self.embedding(inputs)[:, None]

    def decode(self, inputs, mask=None, like=None):
        self._prepare_decode(inputs, like)
        if self.exit_flow.rank == 3:
            return self.exit_flow(inputs, mask=mask)
        _, height, width, _ = ops.shape(like)
        grid = inputs[:, : height * width]
        return self.exit_flow(ops.reshape(grid, (-1, height, width, self.hidden_dim)))

    def compute_output_spec(self, inputs, mask=None, reverse=False, like=None):
        if reverse:
            self._prepare_decode(inputs, like)
            shape = (inputs.shape[0], self.num_classes)
        else:
            self._prepare_encode(inputs)
            shape = (inputs.shape[0], 1, self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def get_build_config(self):
        return {"encodes": self.embedding.built, "rank": self.exit_flow.rank}

    def build_from_config(self, config):
        if config["encodes"]:
            self.build((None,))
        if config["rank"]:
            self.build((None, None, self.hidden_dim), like_shape=(None,) * config["rank"])

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}

    def _prepare_encode(self, inputs):
        """Checks the ids, and builds the embedding if this is its first use."""
        if len(inputs.shape) != 1 or not keras.backend.is_int_dtype(inputs.dtype):
            raise ValueError(
                "`inputs` must be class ids: integers of the shape (batch,). "
                f"Received: inputs.shape={tuple(inputs.shape)}, inputs.dtype={inputs.dtype}"
            )
        if not self.embedding.built:
            self.build((None,))

    def _prepare_decode(self, inputs, like):
        """Checks the arguments, and builds the exit flow if this is its first use."""
        shape, like_shape = tuple(inputs.shape), None if like is None else tuple(like.shape)
        if len(shape) != 3 or shape[-1] != self.hidden_dim:
            raise ValueError(
                f"`inputs` must have the shape (batch, length, hidden_dim={self.hidden_dim}). "
                f"Received: inputs.shape={shape}"
            )
        if not self.exit_flow.built:
            self.build(shape, like_shape=like_shape)
        is_grid = like is not None and len(like_shape) == 4
        if is_grid != (self.exit_flow.rank == 4):
            raise ValueError(
                f"`like` must have rank {self.exit_flow.rank}, as in the first call: one net "
                f"reads grids (rank 4) or sequences, not both. Received: like.shape={like_shape}"
            )
        positions = _count_positions(like_shape) if is_grid else None
        if positions and isinstance(shape[1], int) and shape[1] < positions:
            raise ValueError(
                f"`inputs` must have at least the {positions} positions of `like`. "
                f"Received: inputs.shape={shape}, like.shape={like_shape}"
            )


def _count_positions(shape):
    """Returns height times width of a grid, None where they are not known yet."""
    sizes = shape[1:3]
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None
