"""Puts the reference weights of the authors' code into our layers."""

import pathlib

import keras
import numpy as np

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"


def load(name):
    return np.load(GOLDEN / f"{name}.npz")


def to_numpy(x):
    return keras.ops.convert_to_numpy(x)


def set_norm(norm, file, path):
    norm.set_weights([file[f"{path}/layer_norm_scale"], file[f"{path}/layer_norm_bias"]])


def set_separable(conv, file, path):
    """Kernels as wide as ours: over an input of width 1 only the middle column counts."""
    depthwise = file[f"{path}/depthwise_kernel"]
    width = conv.kernel_size[1]
    start = (depthwise.shape[1] - width) // 2
    conv.set_weights([depthwise[:, start : start + width], file[f"{path}/pointwise_kernel"]])


def set_conv_res(block, file, path):
    for i, (conv, norm) in enumerate([(block.conv_0, block.norm_0), (block.conv_1, block.norm_1)]):
        set_separable(conv, file, f"{path}/sep_conv_block/conv_block_{i}_single")
        set_norm(norm, file, f"{path}/sep_conv_block/conv_block_norm_{i}")
    block.shortcut_conv.set_weights([file[f"{path}/res_conv0/conv_block_0_single/kernel"]])
    set_norm(block.shortcut_norm, file, f"{path}/res_conv0/conv_block_norm_0")


def relative_error(value, reference):
    """Largest difference over the largest reference value."""
    return np.max(np.abs(to_numpy(value) - reference)) / np.max(np.abs(reference))


def randomise(layer, seed=0):
    """Gives every weight, the norms' too, a value that is not its initial one."""
    generator = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(to_numpy(weight) + generator.normal(size=weight.shape) * 0.3)
