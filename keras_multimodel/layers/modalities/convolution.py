"""The convolutions of image, audio and category nets, whose kernels take LoRA and int8."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_multimodel.layers.adaptable import OwnMatrices
from keras_multimodel.layers.sublayers import attributes
from keras_multimodel.ops.compiled import under_xla
from keras_multimodel.ops.depthwise_conv import shifted_products
from keras_multimodel.typing import Shape, Tensor

# Without bias, as a layer normalization with an offset follows. Channels come last whatever
# `keras.config.image_data_format()` says: norms and masks rely on it.
_LAYOUT = "channels_last"


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Conv2D(OwnMatrices):
    """A convolution as `keras.layers.Conv2D` without bias computes it, which has no int8.

    Args:
        filters: number of output channels.
        kernel_size: height and width of the kernel.
        strides: height and width of a step.
        padding: `"same"` or `"valid"`.
        kernel_initializer: initializer of the kernel.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, height, width, channels)`.

    Returns:
        `(batch, new_height, new_width, filters)`.
    """

    matrices = ("kernel",)

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "same",
        kernel_initializer: Any = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size, self.strides = (
            (size, size) if isinstance(size, int) else tuple(size)
            for size in (kernel_size, strides)
        )
        self.padding = padding
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Shape):
        shape = (*self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape, self.kernel_initializer, name="kernel")

    def call(self, inputs: Tensor) -> Tensor:
        options = {"strides": self.strides, "padding": self.padding, "data_format": _LAYOUT}
        return ops.conv(inputs, *self.kernels(), **options)

    def kernels(self) -> list[Tensor]:
        """Returns the kernel to compute with, in a list."""
        return [self.value("kernel")]

    def get_config(self):
        return {
            **super().get_config(),
            **attributes(self, "filters", "kernel_size", "strides", "padding"),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SeparableConv2D(OwnMatrices, keras.layers.SeparableConv2D):
    """Keras' layer without bias, for strides and dilations of 1, made fast for XLA.

    Args:
        filters: number of output channels.
        kernel_size: height and width of the depthwise kernel.
        padding: `"same"` or `"valid"`.
        **kwargs: other arguments of `keras.layers.SeparableConv2D`.
    """

    matrices = ("pointwise_kernel",)

    def __init__(
        self, filters: int, kernel_size: int | Sequence[int], padding: str = "same", **kwargs
    ):
        kwargs = {**kwargs, "use_bias": False, "data_format": _LAYOUT}
        super().__init__(filters=filters, kernel_size=kernel_size, padding=padding, **kwargs)

    def call(self, inputs: Tensor) -> Tensor:
        depthwise, pointwise = self.kernels()
        if not under_xla():
            options = {"strides": self.strides, "padding": self.padding, "data_format": _LAYOUT}
            return ops.separable_conv(inputs, depthwise, pointwise, **options)
        reach = [size - 1 for size in self.kernel_size if self.padding == "same"] or [0, 0]
        margins = [(far // 2, far - far // 2) for far in reach]
        x = shifted_products(inputs, ops.cast(depthwise, inputs.dtype)[..., 0], 1, margins)
        return ops.matmul(x, ops.cast(pointwise, x.dtype)[0, 0])

    def kernels(self) -> list[Tensor]:
        """Returns the depthwise and the pointwise kernel to compute with."""
        return [self.depthwise_kernel, self.value("pointwise_kernel")]
