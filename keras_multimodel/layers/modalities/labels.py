"""Several labels at once, in and out."""

from typing import Any

import keras
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.modalities.vector import VectorNet
from keras_multimodel.losses import LabelsCrossentropy
from keras_multimodel.metrics import LabelsF1
from keras_multimodel.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class LabelsModality(VectorNet):
    """Reads and predicts labels of which an example may have any number, such as tags.

    Each label is 1 if it is present, 0 if not, and NaN if that is not known. Reading adds a learned
    vector for each label that is present to one for all examples.

    Args:
        num_labels: number of labels.
        hidden_dim: width of the body's representation.
        preprocessor: turns names of labels into numbers and back; see `ModalityNet` and
            `kmm.data.LabelsPreprocessor`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: floats `(batch, num_labels)`; with `reverse=True` the body's output `(batch, length,
            hidden_dim)`.
        mask: boolean `(batch, length)`, True where the body's output is real.
        reverse: whether to predict labels instead of reading them.

    Returns:
        `(batch, 1, hidden_dim)`; with `reverse=True` logits `(batch, num_labels)`.

    Raises:
        ValueError: `num_labels` is not a positive integer, or `inputs` have another shape.

    Example:

    >>> net = kmm.layers.LabelsModality(3, hidden_dim=16)
    >>> net(np.array([[1, 0, 1]], "float32")).shape
    (1, 1, 16)
    """

    def __init__(self, num_labels: int, hidden_dim: int, preprocessor: Any = None, **kwargs):
        self.num_labels = positive_int("num_labels", num_labels)
        super().__init__(self.num_labels, hidden_dim, preprocessor=preprocessor, **kwargs)

    def build_encode(self) -> None:
        initializer = keras.initializers.RandomNormal
        shape = (self.num_labels, self.hidden_dim)
        self.embeddings = self.add_weight(shape, initializer(stddev=1.0), name="embeddings")
        self.bias = self.add_weight(shape[1:], initializer(stddev=1.0), name="bias")

    def read(self, inputs: Tensor) -> Tensor:
        present = ops.cast(ops.cast(inputs, "float32") == 1, self.compute_dtype)
        x = ops.matmul(present, ops.cast(self.embeddings, self.compute_dtype))
        return (x + ops.cast(self.bias, self.compute_dtype))[:, None]

    def padding_mask(self, inputs: Tensor) -> Tensor:
        known = ops.logical_not(ops.isnan(ops.cast(inputs, "float32")))
        return ops.any(known, axis=1, keepdims=True)

    def default_loss(self) -> keras.losses.Loss:
        """Returns the binary cross-entropy of all labels."""
        return LabelsCrossentropy()

    def default_metrics(self) -> list[keras.metrics.Metric]:
        """Returns F1 over all labels of all examples."""
        return [LabelsF1()]

    def prediction(self, outputs: Tensor) -> Tensor:
        """Returns float32 ones where a label is more probable than not, and zeros."""
        return ops.cast(outputs > 0, "float32")

    def log_probability(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the log-probability of all labels that are known together."""
        losses = LabelsCrossentropy().call(targets, outputs)
        return -ops.sum(ops.where(ops.isnan(targets), 0.0, losses), axis=-1)

    def get_config(self):
        return {**super().get_config(), "num_labels": self.num_labels}
