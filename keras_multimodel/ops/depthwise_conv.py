"""Depthwise convolution over time, with dilation but without its usual price."""

from keras import ops


def depthwise_conv1d(x, kernel, dilation_rate: int = 1, front: int = 0, back: int = 0):
    """Convolves every channel with its own kernel (cross-correlation, stride 1).

    A dilated convolution reads every `d`-th position. Folding the time axis to `(length / d, d)` turns it into a plain one along the
    first of the two; backends that lower dilation to space-to-batch and back are several times slower.

    Args:
        x: `(batch, length, channels)`.
        kernel: `(kernel_size, 1, channels, 1)`.
        dilation_rate: distance between the positions that a kernel reads.
        front: zeros put before the first position.
        back: zeros put after the last one.

    Returns:
        `(batch, length + front + back - (kernel_size - 1) * dilation_rate, channels)`.
    """
    kernel_size, _, channels, _ = kernel.shape
    length = ops.shape(x)[1] + front + back
    out_length = length - (kernel_size - 1) * dilation_rate
    fill = -length % dilation_rate
    x = ops.pad(x, [[0, 0], [front, back + fill], [0, 0]])
    x = ops.reshape(x, (ops.shape(x)[0], -1, dilation_rate, channels))
    x = ops.depthwise_conv(x, kernel, padding="valid", data_format="channels_last")
    x = ops.reshape(x, (ops.shape(x)[0], -1, channels))
    return x[:, :out_length]
