"""The layers of the body, written a second time: plain NumPy in float64.

Functions that take a layer read its weights and its arguments, and nothing else of it.
"""

import numpy as np


def array(x) -> np.ndarray:
    """Returns a weight or tensor of any backend as float64."""
    from keras import ops

    return np.asarray(ops.convert_to_numpy(x), "float64")


def relu(x):
    return np.maximum(x, 0.0)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x, scale, offset, epsilon=1e-6):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * scale + offset


def norm(layer, x):
    return layer_norm(x, array(layer.scale), array(layer.offset), layer.epsilon)


def depthwise_conv1d(x, kernel, dilation_rate=1, front=0, back=0):
    """Position by position: `y[t] = sum over i of x[t + i * dilation_rate] * kernel[i]`."""
    x = np.pad(x, [(0, 0), (front, back), (0, 0)])
    reach = (len(kernel) - 1) * dilation_rate
    y = np.zeros((x.shape[0], x.shape[1] - reach, x.shape[2]))
    for t in range(y.shape[1]):
        for i in range(len(kernel)):
            y[:, t] += x[:, t + i * dilation_rate] * kernel[i, 0, :, 0]
    return y


def conv_step(layer, x, mask=None):
    x = relu(x)
    if mask is not None:
        x = np.where(mask[..., None], x, 0.0)
    reach = (layer.kernel_size - 1) * layer.dilation_rate
    front = reach if layer.padding == "causal" else reach // 2
    kernel = array(layer.depthwise_kernel)
    x = depthwise_conv1d(x, kernel, layer.dilation_rate, front, reach - front)
    return norm(layer.norm, x @ array(layer.pointwise.kernel))


def conv_block(layer, x, mask=None):
    """For any number of steps, the sums written out by pairs."""
    y, steps = x, list(layer.steps)
    while steps:
        pair, steps = steps[:2], steps[2:]
        for step in pair:
            y = conv_step(step, y, mask)
        y = x + y
    return y


def timing(length, depth, max_timescale=1e4):
    signal = np.zeros((length, depth))
    for t in range(length):
        for i in range(depth):
            angle = t / max_timescale ** ((i - i % 2) / depth)
            signal[t, i] = np.cos(angle) if i % 2 else np.sin(angle)
    return signal


def attention(layer, targets, source, source_mask=None):
    """Head by head; a head owns a contiguous group of channels."""
    q, k, v, out = (
        array(dense.kernel)
        for dense in (layer.query, layer.key, layer.value, layer.output_projection)
    )
    heads = []
    for head in np.split(np.arange(layer.hidden_dim), layer.num_heads):
        scores = (targets @ q[:, head]) @ np.swapaxes(source @ k[:, head], 1, 2)
        scores /= np.sqrt(len(head))
        seen = np.ones(scores.shape, bool)
        if source_mask is not None:
            seen &= source_mask[:, None, :]
        if layer.causal:
            seen &= np.tri(scores.shape[1], dtype=bool)
        heads.append(softmax(np.where(seen, scores, -1e30)) @ (source @ v[:, head]))
    return np.concatenate(heads, axis=-1) @ out


def attention_block(layer, targets, source=None, mask=None, source_mask=None):
    q = targets + timing(*targets.shape[1:])
    for step in layer.steps:
        q = conv_step(step, q, mask)
    x = norm(layer.self_norm, targets + attention(layer.self_attention, q, q, mask))
    if source is None:
        return x
    found = attention(layer.source_attention, x, source, source_mask)
    return norm(layer.source_norm, x + found)


def smoothed_crossentropy(labels, logits, label_smoothing):
    """Cross-entropy of each position against smoothed labels, less the labels' entropy."""
    log_p = np.log(softmax(logits))
    soft = np.full(logits.shape, label_smoothing / (logits.shape[-1] - 1))
    np.put_along_axis(soft, labels[..., None], 1 - label_smoothing, axis=-1)
    entropy = -(soft * np.log(np.where(soft > 0, soft, 1.0))).sum(-1)
    return -(soft * log_p).sum(-1) - entropy
