"""The modality net of text, and of everything else that is a sequence of symbols."""

from typing import Any

import keras
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.adaptable import OwnMatrices
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.layers.sublayers import attributes
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class TextModality(OwnMatrices, ModalityNet):
    """Embeds ids, and turns the body's output into a score for every id.

    Embeddings start from N(0, 1 / hidden_dim) and are scaled by sqrt(hidden_dim); id 0 is padding
    and embeds to zero.

    Args:
        vocabulary_size: number of ids, padding included.
        hidden_dim: width of the body's representation.
        tie_weights: whether the scores use the embedding table too (the default), or a table of
            their own as in the authors' code.
        preprocessor: see `ModalityNet`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: ids `(batch, length)`; with `reverse=True` the body's output `(batch, length,
            hidden_dim)`.
        mask: not used: padding is id 0.
        reverse: whether to translate back.

    Returns:
        `(batch, length, hidden_dim)`, or with `reverse=True` logits `(batch, length,
        vocabulary_size)`.

    Raises:
        ValueError: `vocabulary_size` is below 2, or ids are not integers of rank 2.

    Example:
        >>> net = kmm.layers.TextModality(vocabulary_size=10, hidden_dim=4)
        >>> encoded = net(np.array([[3, 7, 0]]))  # 0 is padding
        >>> encoded.shape, net(encoded, reverse=True).shape
        ((1, 3, 4), (1, 3, 10))

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5.1.
    """

    example_shape = (None,)
    example_dtype = "int32"
    autoregressive = True
    scale_axes = (1,)  # one for each row: rows are what is looked up, and the columns of logits

    def __init__(
        self,
        vocabulary_size: int,
        hidden_dim: int,
        tie_weights: bool = True,
        preprocessor: Any = None,
        **kwargs,
    ):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        self.vocabulary_size = positive_int("vocabulary_size", vocabulary_size, minimum=2)
        self.tie_weights = tie_weights

    @property
    def num_ids(self) -> int:
        return self.vocabulary_size

    def build(self, input_shape: Shape):
        self.embeddings = self._table("embeddings")
        if not self.tie_weights:
            self.output_table = self._table("output_embeddings")

    @property
    def output_embeddings(self) -> keras.Variable:
        """The table of the logits: that of the inputs, if they are tied."""
        return self.embeddings if self.tie_weights else self.output_table

    def excess_inputs(self, name: str) -> float:
        # Keras counts the rows. What a product sums over is the width.
        return self.vocabulary_size / self.hidden_dim

    @property
    def matrices(self) -> tuple[str, ...]:
        """The tables; see `OwnMatrices`."""
        return ("embeddings",) if self.tie_weights else ("embeddings", "output_table")

    def _table(self, name):
        initializer = keras.initializers.RandomNormal(stddev=self.hidden_dim**-0.5)
        return self.add_weight((self.vocabulary_size, self.hidden_dim), initializer, name=name)

    def encode(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        if len(inputs.shape) != 2 or not keras.backend.is_int_dtype(inputs.dtype):
            raise ValueError(
                "`inputs` must be integer ids of shape (batch, length). "
                f"Received: shape={tuple(inputs.shape)}, dtype={inputs.dtype}"
            )
        # The factor sqrt(hidden_dim) gives inputs a variance of 1, while the table itself starts
        # small enough to score the outputs with it.
        x = self.value("embeddings", inputs)
        real = ops.cast(ops.not_equal(inputs, 0), x.dtype)
        return x * (real * self.hidden_dim**0.5)[..., None]

    def decode(
        self, inputs: Tensor, mask: Tensor | None = None, like: Tensor | None = None
    ) -> Tensor:
        table = ops.cast(self.value(self.matrices[-1]), inputs.dtype)
        # As a matrix of rows: with three axes XLA takes 1.4 times as long for the product.
        rows = ops.matmul(ops.reshape(inputs, (-1, self.hidden_dim)), ops.transpose(table))
        return ops.reshape(rows, (*ops.shape(inputs)[:-1], self.vocabulary_size))

    def padding_mask(self, inputs: Tensor) -> Tensor:
        return ops.not_equal(inputs, 0)

    def get_config(self):
        return {**super().get_config(), **attributes(self, "vocabulary_size", "tie_weights")}
