"""What stands before the body of the authors' own model."""

import keras
from keras import ops

from keras_multimodel.layers.conv_res import ConvRes
from keras_multimodel.layers.modality_net import ModalityNet


@keras.saving.register_keras_serializable(package="keras_multimodel")
class FlattenPositions(keras.layers.Layer):
    """Makes a sequence of a grid, and finds the real positions: those that are not all zeros.

    Call arguments:
        inputs: `(batch, *positions, channels)`.

    Returns:
        `(batch, length, channels)`, and a boolean mask `(batch, length)`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        x = ops.reshape(inputs, (ops.shape(inputs)[0], -1, inputs.shape[-1]))
        return x, ops.any(ops.not_equal(x, 0), axis=-1)

    def compute_mask(self, *args, **kwargs):
        return None, None

    def compute_output_spec(self, inputs):
        length = 1
        for size in inputs.shape[1:-1]:
            length = None if size is None or length is None else length * size
        shape = (inputs.shape[0], length)
        x = keras.KerasTensor((*shape, inputs.shape[-1]), dtype=self.compute_dtype)
        return x, keras.KerasTensor(shape, dtype="bool")


@keras.saving.register_keras_serializable(package="keras_multimodel")
class AudioModality2017(ModalityNet):
    """The authors' nets for audio: residual blocks that halve the length.

    They have 2, 4, 8, ... and at last `hidden_dim` channels.
    `AudioModality` is the one to use: it knows padding, and merges the frequencies of a
    spectrogram, which here stay positions.

    Args:
        hidden_dim: width of the body's representation.
        compression: number of blocks before the last one.
        spectral: whether the input is a spectrogram, read as it is and halved in time only. A
            waveform is divided by 255, and if it has a width, that is halved too.
        preprocessor: see `ModalityNet`.

    Call arguments:
        inputs: `(batch, length, width, 1)`.

    Returns:
        `(batch, length', width', hidden_dim)`.
    """

    example_shape = (None, None, 1)

    def __init__(
        self,
        hidden_dim: int,
        compression: int = 8,
        spectral: bool = False,
        preprocessor=None,
        **kwargs,
    ):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        self.compression = compression
        self.spectral = spectral
        widths = [2 ** (i + 1) for i in range(compression)] + [hidden_dim]
        self.blocks = [
            ConvRes(
                filters,
                strides=(2, 1) if spectral else (2, 2),
                relu_on_shortcut=i < compression,
                dtype=self.dtype_policy,
                name=f"block_{i}",
            )
            for i, filters in enumerate(widths)
        ]

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)
            input_shape = block.compute_output_shape(input_shape)

    def encode(self, inputs, mask=None):
        x = inputs if self.spectral else inputs / 255.0
        for block in self.blocks:
            x = block(x)
        return x

    def compute_output_spec(self, inputs, mask=None, reverse=False, like=None):
        shape = inputs.shape
        for block in self.blocks:
            shape = block.compute_output_shape(shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        own = {"compression": self.compression, "spectral": self.spectral}
        return {**super().get_config(), **own}
