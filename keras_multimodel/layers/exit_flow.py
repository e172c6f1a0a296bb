"""The exit flow of Xception, on images and on sequences."""

import keras
from keras import ops

from keras_multimodel.layers.conv_res import zero_masked
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.ops.precision import at_least_float32


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ExitFlow(keras.layers.Layer):
    """Classifies a grid or a sequence of representations with the exit flow of Xception.

    A strided residual, separable convolutions up to 2.5 times the input's width, the mean over
    positions and a linear layer. A grid has 3x3 kernels and strides of 2, a sequence has kernels
    of 5, padded on the left, and one stride of 4. Which of the two is settled by the input that
    the layer is built with.

    Args:
        num_classes: number of classes.

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
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                f"`num_classes` must be a positive integer. Received: num_classes={num_classes}"
            )
        self.num_classes = num_classes
        self.rank = None
        self.supports_masking = True

    def build(self, input_shape):
        if len(input_shape) not in (3, 4):
            raise ValueError(
                "`inputs` must have the shape (batch, height, width, channels) or (batch, "
                f"length, channels). Received: inputs.shape={tuple(input_shape)}"
            )
        self.rank = len(input_shape)
        width = input_shape[-1]
        widths = [width, width * 5 // 4, width * 2, width * 5 // 2]
        grid = self.rank == 4
        layout = {
            "padding": "same" if grid else "valid",
            "data_format": "channels_last",
            "dtype": self.dtype_policy,
        }
        kernel, self.strides = ((3, 3), (2, 2)) if grid else ((5, 1), (4, 1))
        self.pad_length = 0 if grid else kernel[0] - 1
        self.shortcut_conv = keras.layers.Conv2D(
            widths[1], kernel, self.strides, use_bias=False, name="shortcut_conv", **layout
        )
        self.shortcut_norm = self._make_norm("shortcut_norm")
        self.pool = keras.layers.MaxPooling2D(kernel, self.strides, name="pool", **layout)
        self.convs = [
            keras.layers.SeparableConv2D(
                filters, kernel, use_bias=False, name=f"conv_{i}", **layout
            )
            for i, filters in enumerate(widths)
        ]
        self.norms = [self._make_norm(f"norm_{i}") for i in range(4)]
        self.head = keras.layers.Dense(self.num_classes, dtype=self.dtype_policy, name="head")
        self.shortcut_conv.build((None, None, None, width))
        self.shortcut_norm.build((None, None, None, widths[1]))
        for conv, norm, before, after in zip(self.convs, self.norms, [width, *widths], widths):
            conv.build((None, None, None, before))
            norm.build((None, None, None, after))
        self.head.build((None, widths[-1]))

    def call(self, inputs, mask=None):
        if len(inputs.shape) != self.rank:
            raise ValueError(
                f"`inputs` must have rank {self.rank}, as when the layer was built. "
                f"Received: inputs.shape={tuple(inputs.shape)}"
            )
        x, rows = inputs, None
        if self.rank == 3:
            x = x[:, :, None]
            rows = None if mask is None else mask[:, :, None, None]
        shortcut = self._conv(ops.relu(x), rows, self.shortcut_conv, self.shortcut_norm)
        x = self._conv(ops.relu(x), rows, self.convs[0], self.norms[0])
        x = self._conv(ops.relu(x), rows, self.convs[1], self.norms[1])
        # A window ends at its output's own position: padding, which comes last, is in no real one.
        x = self.pool(self._pad(x)) + shortcut
        rows = None if rows is None else rows[:, :: self.strides[0]]
        x = self._conv(x, rows, self.convs[2], self.norms[2])
        x = self._conv(ops.relu(x), rows, self.convs[3], self.norms[3])
        return self.head(_mean(ops.relu(x), rows))

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_classes)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}

    def _conv(self, x, rows, conv, norm):
        return norm(conv(self._pad(zero_masked(x, rows))))

    def _pad(self, x):
        if not self.pad_length:
            return x
        return ops.pad(x, [[0, 0], [self.pad_length, 0], [0, 0], [0, 0]])

    def _make_norm(self, name):
        return LayerNorm(dtype=self.dtype_policy, name=name)


def _mean(x, rows):
    """Returns the mean over real positions, zero where there is none."""
    if rows is None:
        return ops.mean(x, axis=(1, 2))
    x = at_least_float32(x)
    rows = ops.cast(rows, x.dtype)
    total = ops.sum(x * rows, axis=(1, 2))
    return total / ops.maximum(ops.sum(rows, axis=(1, 2)), 1.0)
