"""Depthwise convolution, over time and over grids, fast with and without XLA."""

import itertools
from collections.abc import Sequence

from keras import ops

from keras_multimodel.ops.compiled import materialized, under_xla
from keras_multimodel.ops.gradients import custom_gradient
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
    if under_xla():
        return shifted_products(x, kernel[:, 0, :, 0], dilation_rate, [(front, back)])
    if dilation_rate == 1:
        # Neither `x[:, :, None]` nor `x[:, :kept]` below: TensorFlow's gradients of them are slow.
        x = ops.pad(ops.expand_dims(x, 2), [[0, 0], [front, back], [0, 0], [0, 0]])
        return ops.squeeze(_convolve(x, kernel), 2)
    # A dilated convolution reads every d-th position. Folding the time axis to (length / d, d)
    # turns it into a plain one along the first of the two: backends that lower dilation to
    # space-to-batch and back are several times slower.
    channels = kernel.shape[2]
    length = ops.shape(x)[1] + front + back
    # Of positive numbers: ONNX rounds the quotient of a negative one to 0.
    rest = (dilation_rate - length % dilation_rate) % dilation_rate
    x = ops.pad(x, [[0, 0], [front, back + rest], [0, 0]])
    x = _convolve(ops.reshape(x, (ops.shape(x)[0], -1, dilation_rate, channels)), kernel)
    x = ops.reshape(x, (ops.shape(x)[0], -1, channels))
    kept = length - (kernel.shape[0] - 1) * dilation_rate
    return ops.slice(x, (0, 0, 0), (ops.shape(x)[0], kept, channels))


def _convolve(x, kernel):
    return ops.depthwise_conv(x, kernel, padding="valid", data_format="channels_last")


def shifted_products(
    x: Tensor, kernel: Tensor, dilation_rate: int, margins: Sequence[tuple[int, int]]
) -> Tensor:
    """Computes a depthwise convolution as XLA likes it: the sum of shifted inputs times weights.

    For 64 x 72 x 128 and a kernel of 15, two CPU cores, XLA's own depthwise convolution takes more
    than a hundred times as long as this sum. The gradient is written out, since the automatic one
    of the kernel is 15 sums over columns, which XLA turns into loops with a stride: 170 ms and
    more, against 6 ms.

    Args:
        x: `(batch, *sizes, channels)`.
        kernel: `(*kernel_sizes, channels)`.
        dilation_rate: distance between the positions that a kernel reads.
        margins: for each axis, how many zeros to pad in front and behind.

    Returns:
        `(batch, *sizes, channels)`, each size smaller by what the kernel reaches, and larger by its
        margins.
    """
    reach = [(size - 1) * dilation_rate for size in kernel.shape[:-1]]
    steps = [range(0, far + 1, dilation_rate) for far in reach]
    starts = list(itertools.product(*steps))

    @custom_gradient
    def convolve(x, kernel):
        def gradient(dy):
            dy = materialized(dy)  # else XLA computes it anew in each of the products below
            turned = ops.flip(kernel, axis=list(range(len(reach))))
            around = [(far - a, far - b) for far, (a, b) in zip(reach, margins)]
            return sum_of_shifts(dy, turned, around), kernel_gradient(x, dy)

        return sum_of_shifts(x, kernel, margins), gradient

    def sum_of_shifts(x, kernel, margins):
        wide = _padded(x, margins)
        weights = ops.reshape(at_least_float32(kernel), (len(starts), -1))
        sizes = [n - far for n, far in zip(ops.shape(wide)[1:-1], reach)]

        def product(number, start):
            window = tuple(slice(a, a + n) for a, n in zip(start, sizes))
            # bfloat16 has 8 bits: the sum is in float32, as in the convolutions of the backends.
            return at_least_float32(wide[(slice(None), *window)]) * weights[number]

        total = product(0, starts[0])
        for number, start in enumerate(starts[1:], 1):
            total = total + product(number, start)
        return ops.cast(total, x.dtype)

    def kernel_gradient(x, dy):
        x, dy = _padded(at_least_float32(x), margins), at_least_float32(dy)
        channels = dy.shape[-1]
        flat = ops.reshape(dy, (-1, channels))

        def row(corner):
            shifted = ops.reshape(ops.slice(x, corner, ops.shape(dy)), (-1, channels))
            # Written first: XLA has a fast loop for sums over columns of what is in memory, and a
            # slow one, with a stride, for the products.
            return ops.sum(materialized(shifted * flat), axis=0)

        # A loop: as many copies of its body take XLA seconds to compile.
        corners = ops.convert_to_tensor([(0, *start, 0) for start in starts], "int32")
        rows = ops.map(row, corners)
        return ops.cast(ops.reshape(rows, kernel.shape), kernel.dtype)

    return convolve(x, kernel)


def _padded(x, margins):
    """Pads with zeros, or cuts off where a margin is negative."""
    kept = [slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(ops.shape(x)[1:-1], margins)]
    zeros = [[max(0, a), max(0, b)] for a, b in margins]
    return materialized(ops.pad(x[(slice(None), *kept)], [[0, 0], *zeros, [0, 0]]))
