"""Depthwise convolution over time, fast with and without XLA."""

import keras
from keras import ops

from keras_multimodel.ops.compiled import compiles_with_xla, materialized
from keras_multimodel.ops.numerics import at_least_float32
from keras_multimodel.typing import Tensor


def depthwise_conv1d(
    x: Tensor, kernel: Tensor, dilation_rate: int = 1, front: int = 0, back: int = 0
) -> Tensor:
    """Convolves every channel with its own kernel (cross-correlation, stride 1).

    Args:
        x: `(batch, length, channels)`.
        kernel: `(kernel_size, 1, channels, 1)`.
        dilation_rate: distance between the positions that a kernel reads.
        front: zeros to pad before the first position.
        back: zeros to pad after the last one.

    Returns:
        `(batch, length + front + back - (kernel_size - 1) * dilation_rate, channels)`.
    """
    if keras.backend.backend() == "jax" or compiles_with_xla():
        return _shifted_products(x, kernel[:, 0, :, 0], dilation_rate, front, back)
    if dilation_rate == 1:
        x = ops.pad(x[:, :, None], [[0, 0], [front, back], [0, 0], [0, 0]])
        return _convolve(x, kernel)[:, :, 0]
    # A dilated convolution reads every d-th position. Folding the time axis to (length / d, d)
    # turns it into a plain one along the first of the two: backends that lower dilation to
    # space-to-batch and back are several times slower.
    channels = kernel.shape[2]
    length = ops.shape(x)[1] + front + back
    x = ops.pad(x, [[0, 0], [front, back + -length % dilation_rate], [0, 0]])
    x = _convolve(ops.reshape(x, (ops.shape(x)[0], -1, dilation_rate, channels)), kernel)
    x = ops.reshape(x, (ops.shape(x)[0], -1, channels))
    return x[:, : length - (kernel.shape[0] - 1) * dilation_rate]


def _convolve(x, kernel):
    return ops.depthwise_conv(x, kernel, padding="valid", data_format="channels_last")


def _shifted_products(x, kernel, dilation_rate, front, back):
    """Computes the convolution as XLA likes it: the sum of shifted inputs times a row of the kernel.

    For 64 x 72 x 128 and a kernel of 15, two CPU cores, XLA's own depthwise convolution takes 200
    times as long as this sum. The gradient is written out, since the automatic one of the kernel is
    15 sums over columns, which XLA turns into loops with a stride: 170 ms and more, against 6 ms.

    Args:
        x: `(batch, length, channels)`.
        kernel: `(kernel_size, channels)`.
        dilation_rate: see `depthwise_conv1d`.
        front: see `depthwise_conv1d`.
        back: see `depthwise_conv1d`.
    """
    size = kernel.shape[0]
    reach = (size - 1) * dilation_rate

    @ops.custom_gradient
    def convolve(x, kernel):
        def gradient(dy):
            dy = materialized(dy)  # else XLA computes it anew in each of the products below
            dx = _sum_of_shifts(dy, kernel[::-1], dilation_rate, reach - front, reach - back)
            return dx, _kernel_gradient(x, dy)

        return _sum_of_shifts(x, kernel, dilation_rate, front, back), gradient

    def _kernel_gradient(x, dy):
        x = _padded(at_least_float32(x), front, back)
        dy = at_least_float32(dy)
        ones = ops.ones((1, ops.shape(dy)[0] * ops.shape(dy)[1]), dy.dtype)

        def row(start):
            shifted = ops.slice(x, (0, start, 0), ops.shape(dy))
            # The sum over rows as a product: XLA has no fast loop for sums over columns.
            return ops.matmul(ones, ops.reshape(shifted * dy, (-1, dy.shape[-1])))[0]

        # A loop: `size` copies of its body take XLA seconds to compile.
        rows = ops.map(row, ops.arange(0, reach + 1, dilation_rate, dtype="int32"))
        return ops.cast(rows, kernel.dtype)

    return convolve(x, kernel)


def _sum_of_shifts(x, kernel, dilation_rate, front, back):
    wide, kernel = _padded(x, front, back), at_least_float32(kernel)
    length = ops.shape(wide)[1] - (kernel.shape[0] - 1) * dilation_rate
    starts = [i * dilation_rate for i in range(kernel.shape[0])]
    # bfloat16 has 8 bits: the sum is in float32, as in the convolutions of the backends.
    rows = [at_least_float32(wide[:, s : s + length]) * kernel[i] for i, s in enumerate(starts)]
    return ops.cast(sum(rows[1:], rows[0]), x.dtype)


def _padded(x, front, back):
    """Pads with zeros, or cuts off where a number is negative."""
    x = x[:, max(0, -front) : ops.shape(x)[1] - max(0, -back)]
    return materialized(ops.pad(x, [[0, 0], [max(0, front), max(0, back)], [0, 0]]))
