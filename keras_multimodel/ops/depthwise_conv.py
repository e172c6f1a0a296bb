"""Depthwise convolution over time whose dilation costs next to nothing."""

from keras import ops

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
