"""The base of all modality nets."""

from typing import Any

import keras
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.sublayers import CompositeLayer
from keras_multimodel.losses import LabelSmoothedCrossentropy
from keras_multimodel.metrics import LogPerplexity, TokenAccuracy, TopKAccuracy
from keras_multimodel.typing import Shape, Tensor

MOST_HALVINGS = 24  # of a length: one position of the result then stands for 16 million


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ModalityNet(CompositeLayer):
    """Translates one kind of data into the body's representation, and the body's output back.

    A subclass is a new modality. It implements `encode` if tasks may read it, `decode` if tasks may
    write it, or both, and sets the class attributes below. A net that reads ids overrides
    `num_ids`. A net that writes something else than ids or classes overrides `default_loss`,
    `default_metrics`, `prediction` and `log_probability`. One instance used by several tasks shares
    its weights between them.

    Attributes:
        example_shape: shape of one example as the net reads it, without the batch axis; None for an
            axis of variable size.
        example_dtype: dtype of that example.
        autoregressive: whether targets are sequences of ids that the decoder writes one by one (0
            is padding). If False, a target is one class or vector, and `decode` sees the encoded
            input or one position of the decoder.
        nan_is_gap: whether NaN stands for a value that is missing. Others must be finite.

    Args:
        hidden_dim: width of the body's representation.
        preprocessor: turns a raw example into arrays of `example_shape` (`preprocessor(raw)`) and a
            prediction back into raw form (`preprocessor.decode(prediction, inputs)`); see
            `keras_multimodel.data`. Without one, `MultiModel.generate` takes and returns arrays. A
            plain function works too; predictions then stay arrays.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

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
        ValueError: `hidden_dim` is not a positive integer, `preprocessor` cannot be called, or the
            modality does not have the direction asked for.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="my_package")
    class VectorModality(kmm.layers.ModalityNet):
        example_shape = (None, 4)

        def build(self, input_shape):
            self.dense = self.make(keras.layers.Dense, input_shape, self.hidden_dim, name="dense")

        def encode(self, inputs, mask=None):
            return self.dense(inputs)

        def padding_mask(self, inputs):  # a vector of zeros is padding
            return ops.any(inputs != 0, axis=-1)

    assert VectorModality(8)(np.ones((2, 5, 4), "float32")).shape == (2, 5, 8)
    ```

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5 (modality nets).
    """

    example_shape: tuple = (None,)
    example_dtype: str = "float32"
    autoregressive: bool = False
    nan_is_gap: bool = False

    def __init__(self, hidden_dim: int, preprocessor: Any = None, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = positive_int("hidden_dim", hidden_dim)
        if preprocessor is not None and not callable(preprocessor):
            expected = "`preprocessor` must be a function of a raw example, or None"
            raise ValueError(f"{expected}. Received: preprocessor={preprocessor!r}")
        self.preprocessor: Any = preprocessor

    @property
    def num_ids(self) -> int | None:
        """How many integer ids the net accepts, 0 included; None if its values are no ids.

        `MultiModel` checks inputs and targets against it. Override it in a net that reads ids.
        """
        return None

    def encode(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps `(batch, *example_shape)` to `(batch, *positions, hidden_dim)`."""
        raise ValueError(f"`{type(self).__name__}` cannot be an input: it has no `encode`.")

    def decode(
        self, inputs: Tensor, mask: Tensor | None = None, like: Tensor | None = None
    ) -> Tensor:
        """Maps the body's output `(batch, length, hidden_dim)` to logits."""
        raise ValueError(f"`{type(self).__name__}` cannot be a target: it has no `decode`.")

    def padding_mask(self, inputs: Tensor) -> Tensor | None:
        """Returns a boolean `(batch, length)`, True at real positions after `encode`, or None."""
        return None

    def default_loss(self) -> keras.losses.Loss:
        """Returns the loss of a task that writes the net's values, if it names none.

        Here, cross-entropy with label smoothing 0.1, averaged over real targets.
        """
        return LabelSmoothedCrossentropy(mask_id=self._mask_id())

    def default_metrics(self) -> list[keras.metrics.Metric]:
        """Returns the metrics of such a task: new ones at each call, for they have a state.

        Not `metrics`, which Keras has for what layers measure.

        Here, accuracy and log-perplexity, and for classes also top-5 accuracy.
        """
        mask_id = self._mask_id()
        metrics = [TokenAccuracy(mask_id=mask_id), LogPerplexity(mask_id=mask_id)]
        return metrics if self.autoregressive else [*metrics, TopKAccuracy(5)]

    def prediction(self, outputs: Tensor) -> Tensor:
        """Maps a batch of what `decode` returns to predictions: here, to the best class."""
        return ops.argmax(outputs, axis=-1)

    def log_probability(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the log-probability of each target, float32 `(batch,)`.

        Args:
            outputs: what `decode` returns: here, logits of classes or of ids at each position.
            targets: a batch of targets; a gap in them counts nothing.

        Raises:
            ValueError: targets are no ids or classes, and the net does not override this method.
        """
        if "int" not in keras.backend.standardize_dtype(targets.dtype):
            name = type(self).__name__
            expected = f"`{name}.log_probability` must be defined: what it writes are no ids"
            raise ValueError(f"{expected}. Received: targets of dtype {self.example_dtype}")
        scores = ops.log_softmax(ops.cast(outputs, "float32"), axis=-1)
        scores = ops.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        if not self.autoregressive:
            return scores
        return ops.sum(ops.where(targets != 0, scores, 0.0), axis=-1)

    def _mask_id(self):
        # Id 0 is padding, class 0 is a class.
        return 0 if self.autoregressive else None

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        reverse: bool = False,
        like: Tensor | None = None,
    ) -> Tensor:
        if reverse:
            return self.decode(inputs, mask=mask, like=like)
        return self.encode(inputs, mask=mask)

    def encoded_shape(self, inputs: Tensor) -> Shape | None:
        """Returns the shape of `encode(inputs)`, or None to have Keras trace `encode` for it.

        Args:
            inputs: a symbolic tensor `(batch, *example_shape)`.
        """
        return None

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        reverse: bool = False,
        like: Tensor | None = None,
    ) -> keras.KerasTensor:
        shape = None if reverse else self.encoded_shape(inputs)
        if shape is None:
            return super().compute_output_spec(inputs, mask=mask, reverse=reverse, like=like)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        # The rank tells the modality's own data from the body's output, which keeps its mask.
        if len(inputs.shape) == len(self.example_shape) + 1:
            return self.padding_mask(inputs)
        return previous_mask

    def check_examples(self, inputs: Tensor, kind: str) -> None:
        """Checks a batch of numbers against `example_shape`.

        Args:
            inputs: the batch, or a symbolic tensor.
            kind: what it holds, for the message.

        Raises:
            ValueError: the shape differs, or the dtype is no integer and no float.
        """
        expected = (None, *self.example_shape)
        fits = len(inputs.shape) == len(expected) and all(
            want is None or size is None or want == size
            for want, size in zip(expected, inputs.shape)
        )
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        is_number = keras.backend.is_int_dtype(dtype) or keras.backend.is_float_dtype(dtype)
        if not fits or not is_number:
            raise ValueError(
                f"`inputs` must be {kind} of the shape {expected}, integers or floats. "
                f"Received: inputs.shape={tuple(inputs.shape)}, inputs.dtype={inputs.dtype}"
            )

    def get_config(self):
        config = super().get_config()
        preprocessor = keras.saving.serialize_keras_object(self.preprocessor)
        return {**config, "hidden_dim": self.hidden_dim, "preprocessor": preprocessor}

    @classmethod
    def from_config(cls, config: dict):
        config = dict(config)
        # `keras.layers.Layer` deserializes no arguments of its own accord.
        config["preprocessor"] = keras.saving.deserialize_keras_object(config.get("preprocessor"))
        return cls(**config)
