"""The authors' model in float64 NumPy, from the formulas in `tests/golden/README.md`.

It reads weights by their original names, and finds out from the names that exist how a block is
built. Everything is `(batch, height, width, channels)`, as there.
"""

import numpy as np


def same(size, kernel, stride, dilation):
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def windows(x, kernel, strides=(1, 1), dilation=1, padding="SAME", fill=0.0):
    """Yields row and column of a kernel, and what meets it."""
    if padding == "LEFT":
        pads = [((kernel[0] - 1) * dilation, 0), (0, 0)]
    else:
        pads = [same(*sizes, dilation) for sizes in zip(x.shape[1:3], kernel, strides)]
    height, width = (-(-size // stride) for size, stride in zip(x.shape[1:3], strides))
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    for r in range(kernel[0]):
        for c in range(kernel[1]):
            part = x[:, r * dilation :: strides[0], c * dilation :: strides[1]]
            yield r, c, part[:, :height, :width]


def convolve(x, v, scope, **kwargs):
    if f"{scope}/kernel" in v:
        kernel = v[f"{scope}/kernel"]
        return sum(w @ kernel[r, c] for r, c, w in windows(x, kernel.shape[:2], **kwargs))
    kernel = v[f"{scope}/depthwise_kernel"]
    x = sum(w * kernel[r, c, :, 0] for r, c, w in windows(x, kernel.shape[:2], **kwargs))
    return x @ v[f"{scope}/pointwise_kernel"][0, 0]


def norm(x, v, scope):
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normal * v[f"{scope}/layer_norm_scale"] + v[f"{scope}/layer_norm_bias"]


def step(x, v, block, i=0, mask=None, relu=True, suffix="single", **kwargs):
    """One step of a block of convolutions."""
    x = np.maximum(x, 0) if relu else x
    x = x if mask is None else x * mask
    if suffix == "std" and x.shape[2] == 1:
        suffix = "small"
    conv = f"conv_block_{i}_{suffix}"
    parts = [g for g in range(9) if any(k.startswith(f"{block}/part_{g}/{conv}/") for k in v)]
    if parts:
        split = np.split(x, len(parts), axis=-1)
        x = [convolve(s, v, f"{block}/part_{g}/{conv}", **kwargs) for g, s in zip(parts, split)]
        x = np.concatenate(x, axis=-1)
        mix = f"{block}/conv2d_{i}" if i else f"{block}/conv2d"
        if f"{mix}/kernel" in v:
            x = x @ v[f"{mix}/kernel"][0, 0] + v[f"{mix}/bias"]
    else:
        x = convolve(x, v, f"{block}/{conv}", **kwargs)
    return norm(x, v, f"{block}/conv_block_norm_{i}")


def timing(length, depth):
    angles = np.arange(length)[:, None] * np.exp(-np.arange(16) * np.log(1e4) / 15)
    rest = np.zeros((length, depth - 32))
    return np.concatenate([np.sin(angles), np.cos(angles), rest], axis=1)[:, None]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(targets, source, mask, v, scope):
    q = targets + timing(*targets.shape[1::2])
    for i, dilation in enumerate((1, 4)):
        q = step(q, v, f"{scope}/targets_time", i, dilation=dilation, padding="LEFT")
    scores = q[:, :, 0] @ source[:, :, 0].transpose(0, 2, 1) * targets.shape[-1] ** -0.5
    scores = scores + (1 - mask[:, None, :, 0, 0]) * -1e9
    found = (softmax(scores) @ source[:, :, 0])[:, :, None]
    return norm(targets + found, v, f"{scope}/attn_norm")


def stack(x, v, scope, num_layers, dilations, padding, mask, source=None):
    mask_x = mask if padding == "SAME" else None
    for n in range(num_layers):
        layer = f"{scope}/layer_{n}"
        y = x
        for i, d in enumerate(dilations[:2]):
            y = step(y, v, f"{layer}/residual1", i, mask_x, dilation=d, padding=padding)
        z = x + y
        for i, d in enumerate(dilations[2:]):
            z = step(z, v, f"{layer}/residual2", i, mask_x, dilation=d, padding=padding)
        x = x + z + y
        if source is not None:
            x = x + attention(x, source, mask, v, layer)
        x = x if mask_x is None else x * mask
    return x


def experts(x, v, scope, k):
    rows = x.reshape(-1, x.shape[-1])
    logits = rows @ v[f"{scope}/moe_primary_gating_gate"]
    y = rows.copy()
    for row, scores in enumerate(logits):
        chosen = np.argsort(-scores, kind="stable")[:k]
        for e, gate in zip(chosen, softmax(scores[chosen])):
            hidden = np.maximum(rows[row] @ v[f"{scope}/moe_{e}_layer_0"], 0)
            y[row] += gate * hidden @ v[f"{scope}/moe_{e}_layer_1"]
    return norm(y.reshape(x.shape), v, f"{scope}/moe_norm")


def table(v, scope):
    return np.concatenate([v[f"{scope}/weights_{i}"] for i in range(16)])


def embed(ids, v, scope):
    rows = table(v, scope)
    x = rows[ids] * rows.shape[1] ** 0.5 * (ids != 0)[..., None]
    return x[:, :, None]


def conv_res(x, v, scope, strides, relu):
    y = x
    for i in range(2):
        y = step(y, v, f"{scope}/sep_conv_block", i)
    y = np.max([w for *_, w in windows(y, (3, 3), strides, fill=-np.inf)], axis=0)
    return y + step(x, v, f"{scope}/res_conv0", relu=relu, strides=strides)


def image(x, v, scope="image_modality"):
    x = np.asarray(x, "float64")
    deviation = np.maximum(x.std((1, 2, 3), keepdims=True), np.prod(x.shape[1:]) ** -0.5)
    x = (x - x.mean((1, 2, 3), keepdims=True)) / deviation
    x = step(x, v, f"{scope}/conv0", relu=False, strides=(2, 2))
    x = step(x, v, f"{scope}/conv1")
    for i in range(3):
        x = conv_res(x, v, f"{scope}/block{i}", (2, 2), relu=i == 0)
    return x


def audio(x, v, compression, scope="audio_modality", spectral=False):
    x = np.asarray(x, "float64") / (1 if spectral else 255)
    strides = (2, 1) if spectral else (2, 2)
    for i in range(compression):
        x = conv_res(x, v, f"{scope}/compress_block_{i}", strides, relu=True)
    return conv_res(x, v, f"{scope}/compress_block_final", strides, relu=False)


def classes(x, v, scope, grid=None):
    """The exit flow: of a grid of that many rows, or of a sequence."""
    kernel, strides, padding, suffix = (5, 1), (4, 1), "LEFT", "single"
    if grid is not None:
        kernel, strides, padding, suffix = (3, 3), (2, 2), "SAME", "std"
        x = x.reshape(len(x), grid, -1, x.shape[-1])
    options = {"padding": padding, "suffix": suffix}
    scope_down = f"{scope}/conv_block_downsample"
    r = step(x, v, f"{scope_down}/res_conv", strides=strides, **options)
    x = step(step(x, v, f"{scope_down}/conv0", **options), v, f"{scope_down}/conv1", **options)
    fill = 0.0 if padding == "LEFT" else -np.inf
    x = np.max([w for *_, w in windows(x, kernel, strides, padding=padding, fill=fill)], axis=0)
    x = step(x + r, v, f"{scope_down}/conv2", relu=False, **options)
    x = np.maximum(step(x, v, f"{scope_down}/conv3", **options), 0).mean((1, 2))
    return x @ v[f"{scope}/conv_single/kernel"][0, 0] + v[f"{scope}/conv_single/bias"]


def encode(x, v, num_layers, k, dilations):
    """The encoder; returns its output and the mask."""
    x = x.reshape(len(x), -1, 1, x.shape[-1])
    mask = np.any(x != 0, axis=-1, keepdims=True)
    x = x + timing(*x.shape[1::2])
    x = stack(x, v, "body/encoder1", num_layers // 2, dilations, "SAME", mask)
    x = experts(x, v, "body/experts_enc", k)
    return stack(x, v, "body/encoder2", num_layers, dilations, "SAME", mask), mask


def decode(targets, space, source, mask, v, num_layers, k, dilations):
    """Middle and decoder, from embedded targets."""
    first = np.tile(v["body/target_space_embedding/kernel"][space], (len(targets), 1, 1, 1))
    shifted = np.concatenate([first, targets], axis=1)[:, :-1]
    x = np.concatenate([attention(shifted, source, mask, v, "body"), shifted], axis=-1)
    x = step(x, v, "body/targets_merge", padding="LEFT")
    half = num_layers // 2
    x = stack(x, v, "body/decoder1", half, dilations, "LEFT", mask, source)
    x = experts(x, v, "body/experts_dec", k)
    return stack(x, v, "body/decoder2", half, dilations, "LEFT", mask, source)
