"""Classes out, and in."""

import keras
from keras import ops

from keras_multimodel.layers.exit_flow import ExitFlow
from keras_multimodel.layers.modality_net import ModalityNet


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
            self._build_parts(encodes=True, rank=None)
        elif len(inputs_shape) == 3:
            self._build_parts(encodes=False, rank=_form(like_shape))

    def encode(self, inputs, mask=None):
        if len(inputs.shape) != 1 or not keras.backend.is_int_dtype(inputs.dtype):
            raise ValueError(
                "`inputs` must be class ids: integers of the shape (batch,). "
                f"Received: inputs.shape={tuple(inputs.shape)}, inputs.dtype={inputs.dtype}"
            )
        self._build_parts(encodes=True, rank=None)
        return self.embedding(inputs)[:, None]

    def decode(self, inputs, mask=None, like=None):
        if len(inputs.shape) != 3 or inputs.shape[-1] != self.hidden_dim:
            raise ValueError(
                f"`inputs` must have the shape (batch, length, hidden_dim={self.hidden_dim}). "
                f"Received: inputs.shape={tuple(inputs.shape)}"
            )
        rank = _form(None if like is None else like.shape)
        self._build_parts(encodes=False, rank=rank)
        if rank != self.exit_flow.rank:
            raise ValueError(
                f"`like` must have rank {self.exit_flow.rank}, as in the first call: one net "
                "reads grids (rank 4) or sequences, not both. "
                f"Received: like.shape={None if like is None else tuple(like.shape)}"
            )
        if rank == 3:
            return self.exit_flow(inputs, mask=mask)
        return self.exit_flow(self._to_grid(inputs, like))

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def get_build_config(self):
        return {"encodes": self.embedding.built, "rank": self.exit_flow.rank}

    def build_from_config(self, config):
        self._build_parts(**config)
        self.built = True

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}

    def _to_grid(self, inputs, like):
        _, height, width, _ = ops.shape(like)
        sizes = (inputs.shape[1], *like.shape[1:3])
        if None not in sizes and sizes[0] < sizes[1] * sizes[2]:
            raise ValueError(
                f"`inputs` must have at least the {sizes[1] * sizes[2]} positions of `like`. "
                f"Received: inputs.shape={tuple(inputs.shape)}, like.shape={tuple(like.shape)}"
            )
        grid = inputs[:, : height * width]
        return ops.reshape(grid, (-1, height, width, self.hidden_dim))

    def _build_parts(self, encodes, rank):
        """Builds the embedding if `encodes`, and the exit flow unless `rank` is None."""
        if encodes and not self.embedding.built:
            self.embedding.build((None,))
        if rank and not self.exit_flow.built:
            self.exit_flow.build((None,) * (rank - 1) + (self.hidden_dim,))


def _form(shape):
    """Returns the rank of what the exit flow reads: 4 for a grid, 3 for a sequence."""
    return 4 if shape is not None and len(shape) == 4 else 3
