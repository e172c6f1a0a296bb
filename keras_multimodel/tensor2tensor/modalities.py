"""What stands behind the body of the authors' own model, where it predicts a class.

What stands before the body of the authors' own model."""

import keras
from keras import ops

from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.layers.modalities.xception import ConvRes, ExitFlow


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ExitFlow2017(ExitFlow):
    """An `ExitFlow` with other kernels, of width 1, for grids that are or become that narrow.

    Args:
        num_classes: number of classes.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, height, width, channels)` or `(batch, length, channels)`.

    Returns:
        Logits `(batch, num_classes)`.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.small = {}
        if self.rank == 4:
            for conv in (self.shortcut_conv, *self.convs):
                self.small[conv.name] = [self._add_small(conv, kernel) for kernel in conv.weights]

    def _add_small(self, conv, kernel):
        height, _, *channels = kernel.shape
        return self.add_weight(
            name=f"small_{conv.name}_{kernel.name}",
            shape=(height, 1, *channels),
            initializer="glorot_uniform",
        )

    def _conv(self, x, rows, conv, norm):
        if self.rank == 3:
            return super()._conv(x, rows, conv, norm)
        is_narrow = ops.equal(ops.shape(x)[2], 1)
        kernels = [
            ops.where(is_narrow, _as_wide(ops.convert_to_tensor(small), kernel.shape[1]), kernel)
            for small, kernel in zip(self.small[conv.name], conv.weights)
        ]
        kernels = [ops.cast(kernel, x.dtype) for kernel in kernels]
        convolve = ops.separable_conv if len(kernels) == 2 else ops.conv
        options = {"padding": "same", "data_format": "channels_last"}
        return norm(convolve(x, *kernels, strides=conv.strides, **options))


def _as_wide(kernel, width):
    """Returns a kernel of width 1 with zeros on both sides."""
    margin = width // 2
    return ops.pad(kernel, [[0, 0], [margin, margin], [0, 0], [0, 0]])


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ClassModality2017(ModalityNet):
    """The authors' net for classes: padding takes part in the exit flow.

    `CategoryModality` is the one to use.

    Args:
        num_classes: number of classes.
        hidden_dim: width of the body's representation.
        is_grid: whether the input is a grid, and the convolutions two-dimensional.
        preprocessor: see `ModalityNet`.

    Call arguments:
        inputs: the body's output `(batch, length, hidden_dim)`.
        reverse: True.
        like: the grid before it was flattened.

    Returns:
        Logits `(batch, num_classes)`.
    """

    example_shape = ()
    example_dtype = "int32"

    def __init__(
        self,
        num_classes: int,
        hidden_dim: int,
        is_grid: bool = False,
        preprocessor=None,
        **kwargs,
    ):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        self.num_classes = num_classes
        self.is_grid = is_grid
        self.exit_flow = ExitFlow2017(num_classes, dtype=self.dtype_policy, name="exit_flow")

    def build(self, inputs_shape, like_shape=None):
        self.exit_flow.build((None,) * (3 if self.is_grid else 2) + (self.hidden_dim,))

    def decode(self, inputs, mask=None, like=None):
        if not self.is_grid:
            return self.exit_flow(inputs)
        _, height, width, _ = ops.shape(like)
        return self.exit_flow(ops.reshape(inputs, (-1, height, width, self.hidden_dim)))

    def compute_mask(self, *args, **kwargs):
        return None

    def compute_output_spec(self, inputs, mask=None, reverse=False, like=None):
        return keras.KerasTensor((inputs.shape[0], self.num_classes), dtype=self.compute_dtype)

    def get_config(self):
        own = {"num_classes": self.num_classes, "is_grid": self.is_grid}
        return {**super().get_config(), **own}


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
