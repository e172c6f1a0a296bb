"""The parts of Xception that image, audio and category nets are built from."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.adaptable import Dense
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.modalities.convolution import Conv2D, SeparableConv2D
from keras_multimodel.layers.sublayers import CompositeLayer, attributes, clone_initializer
from keras_multimodel.ops.numerics import at_least_float32
from keras_multimodel.typing import Shape, Tensor


def grid(channels: int) -> Shape:
    """Returns the shape of grids of any size: images vary, and kernels depend on channels only."""
    return (None, None, None, channels)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ConvRes(CompositeLayer):
    """Two separable convolutions and a max-pool beside a strided shortcut.

    `y = MaxPool(ConvStep(ConvStep(x))) + LN(Conv1x1([ReLU](x)))`, where `ConvStep` is ReLU, a
    depthwise-separable convolution without bias and a layer normalization. The pool and the
    shortcut have the strides, all padding is "same".

    With a `mask`, padding has no influence: masked rows are zeroed before every convolution and
    left out of the pool, and the output is zero where its own mask is False. That needs a length
    that is a multiple of the stride, where windows do not move with the amount of padding.

    Args:
        filters: number of output channels.
        kernel_size: height and width of the convolutions and of the pool.
        strides: height and width of a step of the pool and of the shortcut.
        relu_on_shortcut: whether the shortcut starts with a ReLU.
        kernel_initializer: initializer of every kernel.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, height, width, channels)`.
        mask: boolean `(batch, height)`, True where a row is real (padding comes last).

    Returns:
        `(batch, ceil(height / strides[0]), ceil(width / strides[1]), filters)`

    Raises:
        ValueError: an argument is out of range, or `inputs` is not of rank 4.

    Example:

    >>> from keras_multimodel.layers.modalities.xception import ConvRes
    >>> ConvRes(16)(np.ones((2, 28, 28, 8), "float32")).shape
    (2, 14, 14, 16)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5; Chollet 2016, arXiv 1610.02357.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int] = (3, 3),
        strides: int | Sequence[int] = (2, 2),
        relu_on_shortcut: bool = True,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = positive_int("filters", filters)
        self.kernel_size = _pair(kernel_size, "kernel_size")
        self.strides = _pair(strides, "strides")
        self.relu_on_shortcut = relu_on_shortcut
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Shape):
        _check_rank(input_shape)
        inner = grid(self.filters)
        self.conv_0 = self._make_conv(input_shape, "conv_0")
        self.norm_0 = self.make(LayerNorm, inner, name="norm_0")
        self.conv_1 = self._make_conv(inner, "conv_1")
        self.norm_1 = self.make(LayerNorm, inner, name="norm_1")
        layout = {"padding": "same", "data_format": "channels_last"}
        pool = keras.layers.MaxPooling2D
        self.pool = self.make(pool, inner, self.kernel_size, self.strides, name="pool", **layout)
        initializer = clone_initializer(self.kernel_initializer)
        options = {"kernel_initializer": initializer, "name": "shortcut_conv"}
        self.shortcut_conv = self.make(Conv2D, input_shape, self.filters, 1, **options)
        self.shortcut_norm = self.make(LayerNorm, inner, name="shortcut_norm")

    def _make_conv(self, input_shape, name):
        initializers = {
            f"{part}_initializer": clone_initializer(self.kernel_initializer)
            for part in ("depthwise", "pointwise")
        }
        options = {"name": name, **initializers}
        return self.make(SeparableConv2D, input_shape, self.filters, self.kernel_size, **options)

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        _check_rank(inputs.shape)
        rows = None if mask is None else mask[:, :, None, None]
        x = self.norm_0(self.conv_0(zero_masked(ops.relu(inputs), rows)))
        x = self.norm_1(self.conv_1(zero_masked(ops.relu(x), rows)))
        if mask is not None:
            x = mask_for_pool(x, rows)
        # Strided by slicing: the gradient of a 1x1 convolution with strides (2, 1) writes beyond
        # its memory in TensorFlow 2.17 on CPU.
        shortcut = inputs[:, :: self.strides[0], :: self.strides[1]]
        shortcut = ops.relu(shortcut) if self.relu_on_shortcut else shortcut
        x = self.pool(x) + self.shortcut_norm(self.shortcut_conv(shortcut))
        if mask is None:
            return x
        return ops.where(self.downsample(mask)[:, :, None, None], x, ops.zeros_like(x))

    def downsample(self, mask: Tensor) -> Tensor:
        """Returns the mask of the output, boolean `(batch, ceil(height / strides[0]))`."""
        return mask[:, :: self.strides[0]]

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return None if previous_mask is None else self.downsample(previous_mask)

    def compute_output_shape(self, input_shape: Shape):
        _check_rank(input_shape)
        sizes = zip(input_shape[1:3], self.strides)
        spatial = [None if size is None else -(-size // stride) for size, stride in sizes]
        return (input_shape[0], *spatial, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            **attributes(self, "filters", "kernel_size", "strides", "relu_on_shortcut"),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def _pair(value, name):
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(size, int) and size > 0 for size in pair):
        raise ValueError(
            f"`{name}` must be a positive integer or two of them. Received: {name}={value}"
        )
    return pair


def _check_rank(shape):
    if len(shape) != 4:
        raise ValueError(
            "`inputs` must have the shape (batch, height, width, channels). "
            f"Received: inputs.shape={tuple(shape)}"
        )


def zero_masked(x: Tensor, rows: Tensor | None) -> Tensor:
    """Returns `x` with zeros where the broadcast boolean `rows` is False; None keeps all."""
    return x if rows is None else x * ops.cast(rows, x.dtype)


def mask_for_pool(x: Tensor, rows: Tensor) -> Tensor:
    """Returns `x` with so small a value where `rows` is False that no maximum is ever there."""
    # Not the infinity itself: gradients and all-masked windows stay finite, in float16 too.
    return ops.where(rows, x, ops.cast(-3e4, x.dtype))


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ExitFlow(CompositeLayer):
    """Classifies a grid or a sequence of representations with the exit flow of Xception.

    A strided residual, separable convolutions up to 2.5 times the input's width, the mean over
    positions and a linear layer. A grid has 3x3 kernels and strides of 2, a sequence has kernels
    of 5, padded on the left, and one stride of 4. The shape that the layer is built for decides.

    Args:
        num_classes: number of classes.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, height, width, channels)` or `(batch, length, channels)`.
        mask: boolean `(batch, length)` of a sequence, True where it is real (padding comes last).

    Returns:
        Logits `(batch, num_classes)`.

    Raises:
        ValueError: `num_classes` is not a positive integer, or the rank of `inputs` is not the
            one that the layer was built with.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5.3; Chollet 2016, arXiv 1610.02357.
    """

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = positive_int("num_classes", num_classes)
        self.rank = None

    def build(self, input_shape: Shape):
        if len(input_shape) not in (3, 4):
            raise ValueError(
                "`inputs` must have the shape (batch, height, width, channels) or (batch, "
                f"length, channels). Received: inputs.shape={tuple(input_shape)}"
            )
        self.rank = len(input_shape)
        width = input_shape[-1]
        # The multiples of the authors' code: 1.25, 2 and 2.5.
        widths = [width, width * 5 // 4, width * 2, width * 5 // 2]
        is_grid = self.rank == 4
        kernel, self.strides = ((3, 3), (2, 2)) if is_grid else ((5, 1), (4, 1))
        # A sequence is a grid of width 1, padded on the left by hand; see `call`.
        self.pad_length = 0 if is_grid else kernel[0] - 1
        padded = {"padding": "same" if is_grid else "valid"}
        layout = {**padded, "data_format": "channels_last"}
        pool = keras.layers.MaxPooling2D
        self.shortcut_conv = self.make(
            Conv2D, grid(width), widths[1], kernel, self.strides, name="shortcut_conv", **padded
        )
        self.shortcut_norm = self.make(LayerNorm, grid(widths[1]), name="shortcut_norm")
        self.pool = self.make(pool, grid(widths[1]), kernel, self.strides, name="pool", **layout)
        self.convs = [
            self.make(SeparableConv2D, grid(before), filters, kernel, name=f"conv_{i}", **padded)
            for i, (before, filters) in enumerate(zip([width, *widths], widths))
        ]
        self.norms = [
            self.make(LayerNorm, grid(filters), name=f"norm_{i}")
            for i, filters in enumerate(widths)
        ]
        self.head = self.make(Dense, (None, widths[-1]), self.num_classes, name="head")

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        if len(inputs.shape) != self.rank:
            raise ValueError(
                f"`inputs` must have rank {self.rank}, as when the layer was built. "
                f"Received: inputs.shape={tuple(inputs.shape)}"
            )
        x, rows = inputs, None
        if self.rank == 3:
            x = x[:, :, None]
            rows = None if mask is None else mask[:, :, None, None]
        shortcut = self.normalized_conv(ops.relu(x), rows, self.shortcut_conv, self.shortcut_norm)
        for conv, norm in zip(self.convs[:2], self.norms):
            x = self.normalized_conv(ops.relu(x), rows, conv, norm)
        # A window ends at its output's own position: padding, which comes last, is in no real one.
        # In front stand zeros, not minus infinity, as in the authors' code.
        x = self.pool(self._pad(x)) + shortcut
        rows = None if rows is None else rows[:, :: self.strides[0]]
        # Without a ReLU ahead of the third convolution, as in the authors' code.
        x = self.normalized_conv(x, rows, self.convs[2], self.norms[2])
        x = self.normalized_conv(ops.relu(x), rows, self.convs[3], self.norms[3])
        return self.head(_mean(ops.relu(x), rows))

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return None

    def compute_output_shape(self, input_shape: Shape):
        return (input_shape[0], self.num_classes)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}

    def normalized_conv(
        self, x: Tensor, rows: Tensor | None, conv: keras.layers.Layer, norm: LayerNorm
    ) -> Tensor:
        """Zeroes the masked rows of `x`, pads it, and applies a convolution and its norm."""
        return norm(conv(self._pad(zero_masked(x, rows))))

    def _pad(self, x):
        if not self.pad_length:
            return x
        return ops.pad(x, [[0, 0], [self.pad_length, 0], [0, 0], [0, 0]])


def _mean(x, rows):
    """Returns the mean over real positions, zero where there is none."""
    if rows is None:
        return ops.mean(x, axis=(1, 2))
    # Half precision loses what a long sum gains: bfloat16 has 8 bits of precision.
    x = at_least_float32(x)
    rows = ops.cast(rows, x.dtype)
    total = ops.sum(x * rows, axis=(1, 2))
    return total / ops.maximum(ops.sum(rows, axis=(1, 2)), 1.0)
