"""The convolution steps of the authors' code that split the channels into groups."""

from typing import Any

import keras
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.adaptable import Dense, OwnMatrices
from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.sublayers import attributes
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class GroupedDense(OwnMatrices):
    """Multiplies each group of channels by a matrix of its own.

    Args:
        units: output channels, divided evenly among the groups.
        num_groups: number of groups.

    Call arguments:
        inputs: `(rows, channels)`.

    Returns:
        `(rows, units)`.
    """

    matrices = ("kernel",)
    num_stacks = 1
    scale_axes = (1,)

    def __init__(self, units: int, num_groups: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.num_groups = num_groups

    def build(self, input_shape: Shape):
        channels = input_shape[-1] // self.num_groups
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.num_groups, channels, self.units // self.num_groups),
            # He's: Keras would count the axis of groups into the fan-in.
            initializer=keras.initializers.RandomNormal(stddev=(2.0 / channels) ** 0.5),
        )

    def call(self, inputs: Tensor):
        kernel = ops.cast(self.value("kernel"), inputs.dtype)
        # Groups are neighboring channels, as a split of the last axis in the authors' code.
        groups = ops.reshape(inputs, (-1, self.num_groups, kernel.shape[1]))
        return ops.reshape(ops.einsum("ngc,gcf->ngf", groups, kernel), (-1, self.units))

    def compute_output_shape(self, input_shape: Shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), **attributes(self, "units", "num_groups")}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class GroupedConvStep(ConvStep):
    """ReLU, a depthwise-separable convolution within each group of channels, layer normalization.

    Nothing mixes the groups.

    Args:
        filters: output channels, a multiple of `num_groups`.
        kernel_size: positions that one output sees.
        dilation_rate: distance between those positions.
        padding: `"same"` or `"causal"`.
        num_groups: number of groups; it divides the input channels too.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Raises:
        ValueError: as for `ConvStep`, or `num_groups` does not divide the channels.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        dilation_rate: int = 1,
        padding: str = "same",
        num_groups: int = 2,
        **kwargs,
    ):
        super().__init__(filters, kernel_size, dilation_rate, padding, **kwargs)
        self.num_groups = _divisor(num_groups, "filters", filters)

    def make_pointwise(self, channels: int) -> GroupedDense:
        _divisor(self.num_groups, "channels", channels)
        # A depthwise kernel never mixes channels, so one kernel serves all groups.
        return self.make(
            GroupedDense, (None, channels), self.filters, self.num_groups, name="pointwise"
        )

    def get_config(self):
        return {**super().get_config(), "num_groups": self.num_groups}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class MixedConvStep(ConvStep):
    """ReLU, a plain convolution within each group of channels, a 1x1 convolution, layer
    normalization.

    The 1x1 convolution mixes the groups; with one group there is none.

    Args:
        filters: output channels. Before the 1x1 convolution each group has `filters // num_groups`
            channels.
        kernel_size: positions that one output sees.
        dilation_rate: distance between those positions.
        padding: `"same"` or `"causal"`.
        num_groups: number of groups; it divides the input channels.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Raises:
        ValueError: as for `ConvStep`, or `num_groups` does not divide the channels.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        dilation_rate: int = 1,
        padding: str = "same",
        num_groups: int = 4,
        **kwargs,
    ):
        super().__init__(filters, kernel_size, dilation_rate, padding, **kwargs)
        self.num_groups = positive_int("num_groups", num_groups)

    def build(self, input_shape: Shape):
        channels = input_shape[-1]
        _divisor(self.num_groups, "channels", channels)
        # Where the groups do not divide `filters`, the 1x1 convolution makes up for the rest.
        inner = self.filters // self.num_groups * self.num_groups
        windows = (None, self.kernel_size * channels)
        self.parts = self.make(GroupedDense, windows, inner, self.num_groups, name="parts")
        self.mix = None
        if self.num_groups > 1:
            self.mix = self.make(Dense, (None, inner), self.filters, name="mix")
        self.norm = self.make(LayerNorm, (None, self.filters), name="norm")

    def convolve(self, x: Tensor) -> Tensor:
        rows = self.parts(self._windows(x))
        return rows if self.mix is None else self.mix(rows)

    def _windows(self, x):
        """Returns what each output sees, `(rows, channels * kernel_size)`: by group, then tap."""
        length, channels = ops.shape(x)[1], x.shape[-1]
        x = ops.pad(x, [[0, 0], self.margins(), [0, 0]])
        starts = [i * self.dilation_rate for i in range(self.kernel_size)]
        # Slices and one product: TensorFlow has no gradient of grouped convolutions on CPU.
        taps = ops.stack([x[:, start : start + length] for start in starts], axis=2)
        # Groups in front: `parts` then multiplies each group's taps by that group's kernel.
        shape = (-1, self.kernel_size, self.num_groups, channels // self.num_groups)
        taps = ops.transpose(ops.reshape(taps, shape), (0, 2, 1, 3))
        return ops.reshape(taps, (-1, self.kernel_size * channels))

    def get_config(self):
        return {**super().get_config(), "num_groups": self.num_groups}


def make_conv_step(separability: int, *args: Any, **kwargs: Any) -> ConvStep:
    """Returns a convolution step of a given separability, as the authors' code counts it.

    Args:
        separability: 0 for a depthwise-separable convolution over all channels, `-g` for one in
            each of `g` groups, `g` for a plain convolution in each of `g` groups and a 1x1
            convolution that mixes them.
        *args: `filters`, `kernel_size`, `dilation_rate` and `padding` of `ConvStep`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.
    """
    if separability == 0:
        return ConvStep(*args, **kwargs)
    if separability < 0:
        return GroupedConvStep(*args, num_groups=-separability, **kwargs)
    return MixedConvStep(*args, num_groups=separability, **kwargs)


def _divisor(num_groups, name, value):
    if value % positive_int("num_groups", num_groups):
        raise ValueError(
            f"`num_groups` must be a positive integer that divides `{name}`. "
            f"Received: num_groups={num_groups}, {name}={value}"
        )
    return int(num_groups)
