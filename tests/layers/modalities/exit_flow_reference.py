"""The exit flow in float64 NumPy, written from the formulas in `tests/golden/README.md`."""

import keras
import numpy as np


def exit_flow(x, layer):
    """Returns the logits of `x`, of rank 4 or 3, with the weights of `layer`."""
    grid = x.ndim == 4
    x = np.asarray(x, "float64") if grid else np.asarray(x, "float64")[:, :, None]
    strides = (2, 2) if grid else (4, 1)

    def get(sublayer):
        return [keras.ops.convert_to_numpy(w).astype("float64") for w in sublayer.weights]

    def separable(x, i):
        depthwise, pointwise = get(layer.convs[i])
        x = sum(w * depthwise[r, c, :, 0] for r, c, w in windows(x, depthwise.shape, (1, 1)))
        return normalise(x @ pointwise[0, 0], *get(layer.norms[i]))

    def windows(x, kernel, strides, fill=0.0):
        return list(shifted(x, kernel[:2], strides, fill, left=not grid))

    (kernel,) = get(layer.shortcut_conv)
    shortcut = sum(w @ kernel[r, c] for r, c, w in windows(relu(x), kernel.shape, strides))
    shortcut = normalise(shortcut, *get(layer.shortcut_norm))
    x = separable(relu(separable(relu(x), 0)), 1)
    fill = -np.inf if grid else 0.0
    x = np.max([w for _, _, w in windows(x, kernel.shape, strides, fill)], axis=0) + shortcut
    x = relu(separable(relu(separable(x, 2)), 3))
    head, bias = get(layer.head)
    return x.mean(axis=(1, 2)) @ head + bias


def shifted(x, kernel, strides, fill, left):
    """Yields row and column of the kernel with the input that this entry meets."""
    pads = []
    for size, k, stride in zip(x.shape[1:3], kernel, strides):
        total = max((-(-size // stride) - 1) * stride + k - size, 0)
        pads.append((k - 1, 0) if left else (total // 2, total - total // 2))
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    height, width = (-(-size // stride) for size, stride in zip(x.shape[1:3], strides))
    for r in range(kernel[0]):
        for c in range(kernel[1]):
            part = padded[:, r :: strides[0], c :: strides[1]]
            yield r, c, part[:, :height, :width]


def relu(x):
    return np.maximum(x, 0.0)


def normalise(x, scale, bias):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias
