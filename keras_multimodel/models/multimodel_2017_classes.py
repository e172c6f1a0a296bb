"""What stands behind the body of the authors' own model, where it predicts a class."""

import keras
from keras import ops

from keras_multimodel.layers.exit_flow import ExitFlow
from keras_multimodel.layers.modality_net import ModalityNet


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
