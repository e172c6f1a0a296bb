"""The base of all modality nets."""

import keras


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ModalityNet(keras.layers.Layer):
    """Translates one kind of data into the body's representation, and the body's output back.

    A subclass is a new modality. It implements `encode` if tasks may read it, `decode` if tasks may
    write it, or both, and sets the class attributes below. One instance used by several tasks
    shares its weights between them.

    Attributes:
        example_shape: shape of one example as the net reads it, without the batch axis; None for an
            axis of variable size.
        example_dtype: dtype of that example.
        autoregressive: whether targets are sequences of ids that the decoder writes one by one (0
            is padding). If False, the targets leave after the encoder and `decode` sees the encoded
            input.

    Args:
        hidden_dim: width of the body's representation.
        preprocessor: turns a raw example into arrays of `example_shape` (`preprocessor(raw)`) and a
            prediction back into raw form (`preprocessor.decode(prediction, inputs)`); see
            `keras_multimodel.data`. Without one, `MultiModel.generate` takes and returns arrays.

    Call arguments:
        inputs: the modality's own data, `(batch, *example_shape)`; with `reverse=True` the body's
            output, `(batch, length, hidden_dim)`.
        mask: boolean `(batch, length)`, True where the body's output is real. Used with
            `reverse=True`.
        reverse: whether to translate back.
        like: with `reverse=True`, the encoded input before it was flattened, `(batch, *positions,
            hidden_dim)`, for a net that needs its spatial form.

    Returns:
        `(batch, *positions, hidden_dim)`, or with `reverse=True` the logits.

    Raises:
        ValueError: `hidden_dim` is not a positive integer, or the modality does not have the
            direction asked for.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5 (modality nets).
    """

    example_shape: tuple = (None,)
    example_dtype: str = "float32"
    autoregressive: bool = False

    def __init__(self, hidden_dim: int, preprocessor=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(hidden_dim, int) or hidden_dim < 1:
            raise ValueError(
                f"`hidden_dim` must be a positive integer. Received: hidden_dim={hidden_dim}"
            )
        self.hidden_dim = hidden_dim
        self.preprocessor = preprocessor
        self.supports_masking = True

    def encode(self, inputs, mask=None):
        """Maps `(batch, *example_shape)` to `(batch, *positions, hidden_dim)`."""
        raise ValueError(f"`{type(self).__name__}` cannot be an input: it has no `encode`.")

    def decode(self, inputs, mask=None, like=None):
        """Maps the body's output `(batch, length, hidden_dim)` to logits."""
        raise ValueError(f"`{type(self).__name__}` cannot be a target: it has no `decode`.")

    def padding_mask(self, inputs):
        """Returns a boolean `(batch, length)`, True at real positions after `encode`, or None."""
        return None

    def call(self, inputs, mask=None, reverse=False, like=None):
        if reverse:
            return self.decode(inputs, mask=mask, like=like)
        return self.encode(inputs, mask=mask)

    def compute_mask(self, inputs, previous_mask=None):
        if len(inputs.shape) == len(self.example_shape) + 1:
            return self.padding_mask(inputs)
        return previous_mask

    def get_config(self):
        config = super().get_config()
        preprocessor = keras.saving.serialize_keras_object(self.preprocessor)
        return {**config, "hidden_dim": self.hidden_dim, "preprocessor": preprocessor}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["preprocessor"] = keras.saving.deserialize_keras_object(config.get("preprocessor"))
        return cls(**config)
