"""The modality nets of the authors' model, where they differ from those in `layers`."""

import math

import keras
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.layers.modalities.xception import ConvRes, ExitFlow
from keras_multimodel.layers.sublayers import attributes
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ExitFlow2017(ExitFlow):
    """An `ExitFlow` that uses other kernels, of width 1, while a grid is one column wide.

    The authors' code makes a separate convolution for such grids, with weights of its own.

    Args:
        num_classes: number of classes.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, height, width, channels)` or `(batch, length, channels)`.

    Returns:
        Logits `(batch, num_classes)`.
    """

    def build(self, input_shape: Shape):
        super().build(input_shape)
        # By the name of the convolution that each replaces; sequences have none.
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

    def normalized_conv(
        self, x: Tensor, rows: Tensor | None, conv: keras.layers.Layer, norm: LayerNorm
    ) -> Tensor:
        if self.rank == 3:
            return super().normalized_conv(x, rows, conv, norm)
        # The width is known only at run time, so both kernels must have one shape.
        is_narrow = ops.equal(ops.shape(x)[2], 1)
        kernels = [
            ops.where(is_narrow, _as_wide(ops.convert_to_tensor(small), kernel.shape[1]), kernel)
            for small, kernel in zip(self.small[conv.name], conv.kernels())
        ]
        kernels = [ops.cast(kernel, x.dtype) for kernel in kernels]
        convolve = ops.separable_conv if len(kernels) == 2 else ops.conv
        options = {"padding": "same", "data_format": "channels_last"}
        return norm(convolve(x, *kernels, strides=conv.strides, **options))


def _as_wide(kernel, width):
    """Returns a kernel of width 1 with zeros on both sides."""
    margin = width // 2
    # "same" padding aligns the middle column with the grid's only one: the zeros meet its padding.
    return ops.pad(kernel, [[0, 0], [margin, margin], [0, 0], [0, 0]])


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ClassModality2017(ModalityNet):
    """The authors' net for classes: padding takes part in the exit flow.

    Use `CategoryModality` in models of your own.

    Args:
        num_classes: number of classes.
        hidden_dim: width of the body's representation.
        is_grid: whether the input is a grid, which two-dimensional convolutions read.
        **kwargs: `preprocessor` of `ModalityNet`, and arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: the body's output `(batch, length, hidden_dim)`.
        reverse: True.
        like: the grid before it was flattened, if `is_grid`.

    Returns:
        Logits `(batch, num_classes)`.
    """

    example_shape = ()
    example_dtype = "int32"

    def __init__(self, num_classes: int, hidden_dim: int, is_grid: bool = False, **kwargs):
        super().__init__(hidden_dim, **kwargs)
        self.num_classes = num_classes
        self.is_grid = is_grid

    @property
    def num_ids(self) -> int:
        return self.num_classes

    def build(self, inputs_shape: Shape, like_shape: Shape | None = None):
        shape = (None,) * (3 if self.is_grid else 2) + (self.hidden_dim,)
        self.exit_flow = self.make(ExitFlow2017, shape, self.num_classes, name="exit_flow")

    def decode(self, inputs: Tensor, mask: Tensor | None = None, like: Tensor | None = None):
        if not self.is_grid:
            return self.exit_flow(inputs)  # without the mask, as in the authors' code
        _, height, width, _ = ops.shape(like)
        return self.exit_flow(ops.reshape(inputs, (-1, height, width, self.hidden_dim)))

    def compute_mask(self, *args, **kwargs):
        return None

    def compute_output_spec(self, inputs: Tensor, **kwargs):
        return keras.KerasTensor((inputs.shape[0], self.num_classes), dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), **attributes(self, "num_classes", "is_grid")}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class FlattenPositions(keras.layers.Layer):
    """Turns a grid into a sequence, and marks the real positions: those that are not all zeros.

    Call arguments:
        inputs: `(batch, *positions, channels)`.

    Returns:
        `(batch, length, channels)`, and a boolean mask `(batch, length)`.
    """

    def call(self, inputs: Tensor):
        x = ops.reshape(inputs, (ops.shape(inputs)[0], -1, inputs.shape[-1]))
        # As the authors' code does: id 0 embeds to zeros, while other nets hardly ever give any.
        return x, ops.any(ops.not_equal(x, 0), axis=-1)

    def compute_mask(self, *args, **kwargs):
        return None, None

    def compute_output_spec(self, inputs: Tensor):
        positions = inputs.shape[1:-1]
        shape = (inputs.shape[0], None if None in positions else math.prod(positions))
        x = keras.KerasTensor((*shape, inputs.shape[-1]), dtype=self.compute_dtype)
        return x, keras.KerasTensor(shape, dtype="bool")


@keras.saving.register_keras_serializable(package="keras_multimodel")
class AudioModality2017(ModalityNet):
    """The authors' nets for audio: residual blocks, each of which halves the length.

    The blocks have 2, 4, 8, ... channels, the last one `hidden_dim`. Use `AudioModality` in models
    of your own: it knows padding, and merges the frequencies of a spectrogram, which stay positions
    here.

    Args:
        hidden_dim: width of the body's representation.
        compression: number of blocks before the last one.
        spectral: whether the input is a spectrogram, which is read as it is and halved in time
            only. A waveform is divided by 255, and its width is halved too.
        **kwargs: `preprocessor` of `ModalityNet`, and arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, width, 1)`.

    Returns:
        `(batch, length', width', hidden_dim)`.
    """

    example_shape = (None, None, 1)

    def __init__(self, hidden_dim: int, compression: int = 8, spectral: bool = False, **kwargs):
        super().__init__(hidden_dim, **kwargs)
        self.compression = positive_int("compression", compression, minimum=0)
        self.spectral = spectral

    def build(self, input_shape: Shape):
        widths = [2 ** (i + 1) for i in range(self.compression)] + [self.hidden_dim]
        options = {"strides": (2, 1) if self.spectral else (2, 2), "dtype": self.dtype_policy}
        self.blocks = [
            ConvRes(width, relu_on_shortcut=i < self.compression, name=f"block_{i}", **options)
            for i, width in enumerate(widths)
        ]
        for block in self.blocks:
            block.build(input_shape)
            input_shape = block.compute_output_shape(input_shape)

    def encode(self, inputs: Tensor, mask: Tensor | None = None):
        # Bytes: divided, but not centered, as in the authors' code.
        x = inputs if self.spectral else inputs / 255.0
        for block in self.blocks:
            x = block(x)
        return x

    def compute_output_spec(self, inputs: Tensor, **kwargs):
        shape = inputs.shape
        for block in self.blocks:
            shape = block.compute_output_shape(shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), **attributes(self, "compression", "spectral")}
