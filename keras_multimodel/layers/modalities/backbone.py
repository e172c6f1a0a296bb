"""Any Keras model as a net that reads."""

from typing import Any

import keras
from keras import ops

from keras_multimodel.layers.adaptable import Dense
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class BackboneModality(ModalityNet):
    """Reads with a Keras model, such as a pretrained backbone, and projects it to the body's width.

    The model has one input, or the two that text backbones of keras-hub have, `"token_ids"` and
    `"padding_mask"`. It returns `(batch, positions, channels)` or `(batch, height, width,
    channels)`. Ids of 0 are padding.

    Args:
        model: the `keras.Model`. The net keeps it, and saves it with its weights.
        hidden_dim: width of the body's representation.
        trainable_backbone: whether the model is trained too. If not, it runs as in inference, and
            only the projection is trained.
        preprocessor: turns a raw example into what the model reads; see `ModalityNet`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: a batch of what the model reads.

    Returns:
        `(batch, positions, hidden_dim)`, or `(batch, height, width, hidden_dim)`.

    Raises:
        ValueError: `model` is no functional `keras.Model` of these inputs and outputs.

    Example:

    ```python
    pixels = keras.Input((32, 32, 3))
    features = keras.layers.Conv2D(8, 3, strides=4)(pixels)
    photo = kmm.layers.BackboneModality(keras.Model(pixels, features), hidden_dim=16)
    assert photo(np.zeros((1, 32, 32, 3), "float32")).shape == (1, 8, 8, 16)
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        hidden_dim: int,
        trainable_backbone: bool = True,
        preprocessor: Any = None,
        **kwargs,
    ):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
            preset = isinstance(model, str)
            hint = ", see `keras_hub.models.Backbone.from_preset`" if preset else ""
            raise ValueError(
                f"`model` must be a functional or Sequential keras.Model, built{hint}. "
                f"Received: model of type {type(model).__name__}"
            )
        # A `Sequential` has lists of its tensors only.
        inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        self._is_text = isinstance(inputs, dict) and set(inputs) == {"token_ids", "padding_mask"}
        read = inputs["token_ids"] if self._is_text else inputs
        output = model.outputs[0] if len(model.outputs) == 1 else model.outputs
        if isinstance(read, dict | list | tuple) or len(getattr(output, "shape", ())) not in (3, 4):
            received = keras.tree.map_structure(lambda x: x.shape, {"in": inputs, "out": output})
            raise ValueError(
                "`model` must have one input, or token_ids and padding_mask, and one output of "
                f"rank 3 or 4; a keras.Model around it can make it so. Received: {received}"
            )
        self.model = model
        self.trainable_backbone = bool(trainable_backbone)
        if not self.trainable_backbone:
            model.trainable = False
        self.example_shape = tuple(read.shape[1:])
        self.example_dtype = keras.backend.standardize_dtype(read.dtype)
        # The model has a policy of its own, which ids and pixels must reach unrounded.
        self.autocast = False

    def build(self, input_shape: Shape):
        shape = (None,) * (len(self.model.outputs[0].shape) - 1) + (
            self.model.outputs[0].shape[-1],
        )
        self.projection = self.make(Dense, shape, self.hidden_dim, name="projection")

    def encode(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self.check_examples(inputs, "inputs of the model")
        given = inputs
        if self._is_text:
            given = {"token_ids": inputs, "padding_mask": self.padding_mask(inputs)}
        training = None if self.trainable_backbone else False
        features = self.model(given, training=training)
        return self.projection(ops.cast(features, self.compute_dtype))

    def encoded_shape(self, inputs: Tensor) -> Shape:
        self.check_examples(inputs, "inputs of the model")
        shape = self.model.compute_output_shape(
            {"token_ids": inputs.shape, "padding_mask": inputs.shape}
            if self._is_text
            else inputs.shape
        )
        return (*shape[:-1], self.hidden_dim)

    def padding_mask(self, inputs: Tensor) -> Tensor | None:
        return ops.not_equal(inputs, 0) if self._is_text else None

    def get_config(self):
        own = {
            "model": keras.saving.serialize_keras_object(self.model),
            "trainable_backbone": self.trainable_backbone,
        }
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict):
        model = keras.saving.deserialize_keras_object(config["model"])
        return super().from_config({**config, "model": model})
