"""Weights of the authors' own model, put into ours."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_multimodel.layers.modalities.image import ImageModality
from keras_multimodel.layers.modalities.text import TextModality
from keras_multimodel.tensor2tensor.grouped_conv_steps import GroupedConvStep, MixedConvStep
from keras_multimodel.tensor2tensor.modalities import ClassModality2017

# What training adds to a checkpoint, and the model does not have.
_TRAINING_STATE = re.compile(
    r"^(training|OptimizeLoss|losses_avg|train_stats)/|/Adam(_1)?$|^global_step$"
)
# Kernels for grids of width 1: a source may be without them.
_OPTIONAL = re.compile(r"^class_label_modality_\d+_\d+/.*_small/")
# What the authors' code creates for classes, and never reads.
_TARGET_SPACES = "body/target_space_embedding/kernel"


class Entry(NamedTuple):
    """Where the value of one of our variables comes from.

    Attributes:
        variable: our variable.
        names: the original variables that it is made of.
        shape: the shape that each of them has; a list of shapes where they differ.
        join: makes our value of a list of theirs.
    """

    variable: object
    names: list[str]
    shape: tuple | list
    join: Callable

    def shapes(self) -> list[tuple]:
        """Returns one shape a name."""
        return self.shape if isinstance(self.shape, list) else [self.shape] * len(self.names)


def load_tensor2tensor_weights(model: keras.Model, source, num_shards: int = 16) -> None:
    """Gives a `multimodel_2017` the weights of the authors' code.

    Every variable is accounted for: unless all that the model needs are there, with the right
    shapes, and nothing is left over, nothing is loaded. What only training needs (Adam's slots,
    step counters, moving averages) is passed over.

    Args:
        model: a model built by `multimodel_2017`.
        source: dict from the original names, such as
            `"body/encoder1/layer_0/residual1/conv_block_0_single/depthwise_kernel"`, to arrays; or
            the path of a TensorFlow 1 checkpoint.
        num_shards: into how many variables each table of embeddings is cut, 16 by default there
            too.

    Raises:
        ValueError: with the names of all variables that are missing, left over, or of another
            shape.

    Example:

    ```python
    model = keras_multimodel.tensor2tensor.multimodel_2017(hidden_dim=1536, num_experts=120,
    separability=-2) keras_multimodel.tensor2tensor.load_tensor2tensor_weights(model,
    "t2t_train/model.ckpt-500000")
    ```
    """
    if not isinstance(source, dict):
        source = _read_checkpoint(source)
    source = {name: value for name, value in source.items() if not _TRAINING_STATE.search(name)}
    entries = [
        entry
        for entry in model_entries(model, num_shards)
        if entry.names[0] in source or not _OPTIONAL.search(entry.names[0])
    ]
    has_decoder = any(layer.name == "middle" for layer in model.layers)
    assign_entries(entries, source, lambda name: name == _TARGET_SPACES and not has_decoder)


def assign_entries(entries: list[Entry], source: dict, ignored: Callable = lambda name: False):
    """Assigns all entries, or none.

    Args:
        entries: the entries.
        source: dict from original names to arrays.
        ignored: whether an original variable may be left over.

    Raises:
        ValueError: as `load_tensor2tensor_weights`.
    """
    expected = {name: shape for e in entries for name, shape in zip(e.names, e.shapes())}
    missing = [name for name in expected if name not in source]
    left_over = [name for name in source if name not in expected and not ignored(name)]
    wrong = [
        f"{name} is {np.shape(source[name])} and must be {shape}"
        for name, shape in expected.items()
        if name in source and np.shape(source[name]) != shape
    ]
    if missing or left_over or wrong:
        problems = {"missing": missing, "left over": left_over, "of another shape": wrong}
        lists = [f"{k} ({len(v)}):\n  " + "\n  ".join(v) for k, v in problems.items() if v]
        raise ValueError(
            "`source` must hold exactly the variables of `model`. Received: "
            f"{len(source)} variables, of which {len(entries)} were to be made. " + "\n".join(lists)
        )
    for entry in entries:
        entry.variable.assign(entry.join([np.asarray(source[name]) for name in entry.names]))


def model_entries(model: keras.Model, num_shards: int = 16) -> Iterator[Entry]:
    """Yields the entries of all variables of a `multimodel_2017`."""
    layers = {layer.name: layer for layer in model.layers}
    yield from modality_entries(layers["inputs_net"], num_shards)
    for name in ("encoder1", "encoder2", "decoder1", "decoder2"):
        if name in layers:
            yield from stack_entries(layers[name], f"body/{name}")
    for name in ("experts_enc", "experts_dec"):
        if name in layers:
            yield from expert_entries(layers[name], f"body/{name}")
    if "middle" in layers:
        yield from middle_entries(layers["middle"], "body")
    yield from modality_entries(layers["targets_net"], num_shards, is_target=True)


def step_entries(step, scope: str, i: int) -> Iterator[Entry]:
    """Yields the entries of step `i` of a block of convolutions."""
    conv = f"conv_block_{i}_single"
    if isinstance(step, MixedConvStep):
        yield from _mixed_entries(step, scope, i)
    else:
        groups = step.num_groups if isinstance(step, GroupedConvStep) else 1
        parts = [f"{scope}/part_{g}/{conv}" for g in range(groups)]
        if not isinstance(step, GroupedConvStep):
            parts = [f"{scope}/{conv}"]
        size, _, channels, _ = step.depthwise_kernel.shape
        yield Entry(
            step.depthwise_kernel,
            [f"{part}/depthwise_kernel" for part in parts],
            (size, 1, channels // groups, 1),
            lambda values: np.concatenate(values, axis=2),
        )
        kernel = step.pointwise.kernel
        yield Entry(
            kernel,
            [f"{part}/pointwise_kernel" for part in parts],
            (1, 1, *kernel.shape[-2:]),
            lambda values: np.reshape(values, kernel.shape),
        )
    yield from norm_entries(step.norm, f"{scope}/conv_block_norm_{i}")


def _mixed_entries(step, scope, i):
    kernel = step.parts.kernel
    size = step.kernel_size
    yield Entry(
        kernel,
        [f"{scope}/part_{g}/conv_block_{i}_single/kernel" for g in range(step.num_groups)],
        (size, 1, kernel.shape[1] // size, kernel.shape[2]),
        lambda values: np.reshape(values, kernel.shape),
    )
    if step.mix is not None:
        name = f"{scope}/conv2d_{i}" if i else f"{scope}/conv2d"
        yield _reshaped(step.mix.kernel, f"{name}/kernel", (1, 1, *step.mix.kernel.shape))
        yield _same(step.mix.bias, f"{name}/bias")


def norm_entries(norm, scope: str) -> Iterator[Entry]:
    """Yields the entries of a layer normalisation."""
    for variable, name in zip(norm.weights, ("layer_norm_scale", "layer_norm_bias")):
        yield _same(variable, f"{scope}/{name}")


def attention_entries(attention, scope: str) -> Iterator[Entry]:
    """Yields the entries of a `SliceNetAttention`."""
    for i, step in enumerate(attention.steps):
        yield from step_entries(step, f"{scope}/targets_time", i)
    yield from norm_entries(attention.norm, f"{scope}/attn_norm")


def stack_entries(stack, scope: str) -> Iterator[Entry]:
    """Yields the entries of a `SliceNetStack`."""
    for n, steps in enumerate(stack.layers):
        layer = f"{scope}/layer_{n}"
        for i, step in enumerate(steps):
            block, position = (1, i) if i < 2 else (2, i - 2)
            yield from step_entries(step, f"{layer}/residual{block}", position)
        if stack.attentions:
            yield from attention_entries(stack.attentions[n], layer)


def middle_entries(middle, scope: str) -> Iterator[Entry]:
    """Yields the entries of a `SliceNetMiddle`."""
    yield _same(middle.target_spaces, f"{scope}/target_space_embedding/kernel")
    yield from attention_entries(middle.attention, scope)
    yield from step_entries(middle.merge, f"{scope}/targets_merge", 0)


def expert_entries(experts, scope: str) -> Iterator[Entry]:
    """Yields the entries of an `MoELayer` with a `NoisyTopKRouter`."""
    yield _same(experts.router.gate_kernel, f"{scope}/moe_primary_gating_gate")
    yield _same(experts.router.noise_kernel, f"{scope}/moe_primary_gating_noise")
    for i, kernel in enumerate(experts.expert_kernels):
        names = [f"{scope}/moe_{e}_layer_{i}" for e in range(experts.num_experts)]
        yield Entry(kernel, names, tuple(kernel.shape[1:]), np.stack)
    yield from norm_entries(experts.norm, f"{scope}/moe_norm")


def modality_entries(net, num_shards: int = 16, is_target: bool = False) -> Iterator[Entry]:
    """Yields the entries of a modality net."""
    if isinstance(net, TextModality):
        scope = f"symbol_modality_{net.vocabulary_size}_{net.hidden_dim}"
        tables = {"input_emb": net.embeddings}
        if is_target:
            tables = {"target_emb": net.embeddings, "softmax": net.output_embeddings}
        for name, table in tables.items():
            yield _table_entry(table, f"{scope}/{name}", num_shards)
    elif isinstance(net, ClassModality2017):
        scope = f"class_label_modality_{net.num_classes}_{net.hidden_dim}"
        yield from exit_flow_entries(net.exit_flow, scope)
    elif isinstance(net, ImageModality):
        yield from image_entries(net, "image_modality")
    else:
        yield from audio_entries(net, f"audio_{'spectral_' if net.spectral else ''}modality")


def _table_entry(table, scope, num_shards):
    rows, width = table.shape
    sizes = [rows // num_shards + (i < rows % num_shards) for i in range(num_shards)]
    names = [f"{scope}/weights_{i}" for i in range(num_shards)]
    return Entry(table, names, [(size, width) for size in sizes], np.concatenate)


def exit_flow_entries(flow, scope: str) -> Iterator[Entry]:
    """Yields the entries of an `ExitFlow2017`."""
    convs = {"res_conv": (flow.shortcut_conv, flow.shortcut_norm)}
    convs.update({f"conv{i}": pair for i, pair in enumerate(zip(flow.convs, flow.norms))})
    suffix = "std" if flow.rank == 4 else "single"
    for name, (conv, norm) in convs.items():
        block = f"{scope}/conv_block_downsample/{name}"
        yield from _conv_entries(conv.weights, f"{block}/conv_block_0_{suffix}")
        yield from norm_entries(norm, f"{block}/conv_block_norm_0")
        if flow.rank == 4:
            yield from _conv_entries(flow.small[conv.name], f"{block}/conv_block_0_small")
    kernel, bias = flow.head.weights
    yield _reshaped(kernel, f"{scope}/conv_single/kernel", (1, 1, *kernel.shape))
    yield _same(bias, f"{scope}/conv_single/bias")


def image_entries(net, scope: str) -> Iterator[Entry]:
    """Yields the entries of an `ImageModality`."""
    for i, (conv, norm) in enumerate(((net.conv_0, net.norm_0), (net.conv_1, net.norm_1))):
        yield from _conv_entries(conv.weights, f"{scope}/conv{i}/conv_block_0_single")
        yield from norm_entries(norm, f"{scope}/conv{i}/conv_block_norm_0")
    for i, block in enumerate(net.blocks):
        yield from conv_res_entries(block, f"{scope}/block{i}")


def audio_entries(net, scope: str) -> Iterator[Entry]:
    """Yields the entries of an `AudioModality2017`."""
    for i, block in enumerate(net.blocks):
        name = "final" if i == net.compression else i
        yield from conv_res_entries(block, f"{scope}/compress_block_{name}")


def conv_res_entries(block, scope: str) -> Iterator[Entry]:
    """Yields the entries of a `ConvRes`."""
    for i, (conv, norm) in enumerate(((block.conv_0, block.norm_0), (block.conv_1, block.norm_1))):
        yield from _conv_entries(conv.weights, f"{scope}/sep_conv_block/conv_block_{i}_single")
        yield from norm_entries(norm, f"{scope}/sep_conv_block/conv_block_norm_{i}")
    yield from _conv_entries(block.shortcut_conv.weights, f"{scope}/res_conv0/conv_block_0_single")
    yield from norm_entries(block.shortcut_norm, f"{scope}/res_conv0/conv_block_norm_0")


def _conv_entries(kernels, scope):
    names = ["depthwise_kernel", "pointwise_kernel"] if len(kernels) == 2 else ["kernel"]
    for variable, name in zip(kernels, names):
        yield _same(variable, f"{scope}/{name}")


def _same(variable, name):
    return Entry(variable, [name], tuple(variable.shape), lambda values: values[0])


def _reshaped(variable, name, shape):
    entry = Entry(variable, [name], tuple(shape), lambda values: np.reshape(values, variable.shape))
    return entry


def _read_checkpoint(path):
    import tensorflow as tf

    if not Path(f"{path}.index").exists() and not Path(path).exists():
        raise ValueError(
            "`source` must be a dict or the path of a TensorFlow checkpoint. "
            f"Received: source={path}"
        )
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
