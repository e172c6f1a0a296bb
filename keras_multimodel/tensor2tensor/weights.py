"""Puts the weights of the authors' own model into a `multimodel_2017`.

Every function named `*_entries` pairs the variables of one of our layers with the names that the
authors' code gives them, under a variable scope of that code.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.modalities.image import ImageModality
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.layers.modalities.text import TextModality
from keras_multimodel.layers.modalities.xception import ConvRes
from keras_multimodel.layers.moe.moe_layer import MoELayer
from keras_multimodel.tensor2tensor import modalities
from keras_multimodel.tensor2tensor.blocks import SliceNetAttention, SliceNetMiddle, SliceNetStack
from keras_multimodel.tensor2tensor.conv_steps import GroupedConvStep, MixedConvStep

# What training adds to a checkpoint, and the model does not have.
_TRAINING_STATE = re.compile(
    r"^(training|OptimizeLoss|losses_avg|train_stats)/|/Adam(_1)?$|^global_step$"
)
# The authors' whole model opens the scope of a modality net, and so do the nets for images, audio
# and classes themselves: their checkpoints have `image_modality/image_modality/conv0/...`.
_DOUBLED_SCOPE = re.compile(r"^(\w*_modality\w*)/\1/")
# Kernels for grids of width 1: a checkpoint may lack them.
_OPTIONAL = re.compile(r"^class_label_modality_\d+_\d+/.*_small/")
# The authors' code creates this for classes too, and does not read it there.
_TARGET_SPACES = "body/target_space_embedding/kernel"


class Entry(NamedTuple):
    """Where the value of one of our variables comes from.

    Attributes:
        variable: our variable.
        shapes: the names of the original variables that it is made of, and the shape of each.
        axis: the axis along which those are concatenated; None if they only change their shape.
    """

    variable: keras.Variable
    shapes: Mapping[str, tuple[int, ...]]
    axis: int | None = None

    def join(self, values: list[np.ndarray]) -> np.ndarray:
        """Returns the value of `variable`, given those of the original variables."""
        if self.axis is None:
            return np.reshape(values, self.variable.shape)
        return np.concatenate(values, self.axis)


def load_tensor2tensor_weights(
    model: keras.Model, source: Mapping[str, np.ndarray] | str | Path, num_shards: int = 16
) -> None:
    """Gives a `multimodel_2017` the weights of the authors' code.

    The function accounts for every variable: it loads all of them, or nothing if one is missing,
    has another shape, or is not part of the model. It skips what only training needs (Adam's slots,
    step counters, moving averages). The scope of a modality net may stand once in a name, or twice
    as in the checkpoints of a whole model (`image_modality/image_modality/conv0/...`).

    Args:
        model: a model built by `multimodel_2017`.
        source: dict from the original names, such as
            `"body/encoder1/layer_0/residual1/conv_block_0_single/depthwise_kernel"`, to arrays; or
            the path of a TensorFlow 1 checkpoint.
        num_shards: number of variables that each table of embeddings is cut into; their code too
            has 16 by default.

    Raises:
        ValueError: with the names of all variables that are missing, left over, given twice, or of
            another shape.

    Example:

    ```python
    model = kmm.tensor2tensor.multimodel_2017(
        vocabulary_size=50, hidden_dim=36, num_layers=1, num_experts=2
    )
    # A path such as "t2t_train/model.ckpt-500000", or arrays by name as here.
    entries = kmm.tensor2tensor.weights.model_entries(model)
    arrays = {name: np.zeros(shape) for e in entries for name, shape in e.shapes.items()}
    kmm.tensor2tensor.load_tensor2tensor_weights(model, arrays)
    ```
    """
    if not isinstance(source, Mapping):
        source = _read_checkpoint(source)
    source = {name: value for name, value in source.items() if not _TRAINING_STATE.search(name)}
    single = {_with_single_scope(name) for name in source}
    entries = [
        entry
        for entry in model_entries(model, num_shards)
        if single & entry.shapes.keys() or not any(map(_OPTIONAL.search, entry.shapes))
    ]
    has_decoder = any(layer.name == "middle" for layer in model.layers)
    assign_entries(entries, source, lambda name: name == _TARGET_SPACES and not has_decoder)


def assign_entries(
    entries: list[Entry],
    source: Mapping[str, np.ndarray],
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """Assigns all entries, or none.

    Args:
        entries: the entries.
        source: dict from original names to arrays.
        ignored: whether an original variable may be left over.

    Raises:
        ValueError: as `load_tensor2tensor_weights`.
    """
    expected = {name: shape for entry in entries for name, shape in entry.shapes.items()}
    given: dict[str, str] = {}  # expected name -> name in `source`
    kinds = "missing", "left over", "given twice", "of another shape"
    problems: dict[str, list[str]] = {kind: [] for kind in kinds}
    for name, value in source.items():
        single = _with_single_scope(name)
        if single not in expected:
            problems["left over"] += [] if ignored(name) else [name]
        elif single in given:
            problems["given twice"] += [given[single], name]
        else:
            given[single] = name
            if np.shape(value) != expected[single]:
                wrong = f"{name} is {np.shape(value)} and must be {expected[single]}"
                problems["of another shape"].append(wrong)
    problems["missing"] = [name for name in expected if name not in given]
    if any(problems.values()):
        lists = [f"{k} ({len(v)}):\n  " + "\n  ".join(v) for k, v in problems.items() if v]
        raise ValueError(
            "`source` must hold exactly the variables of `model`. Received: "
            f"{len(source)} variables for {len(expected)} expected names. " + "\n".join(lists)
        )
    for entry in entries:
        entry.variable.assign(entry.join([np.asarray(source[given[n]]) for n in entry.shapes]))


def _with_single_scope(name):
    return _DOUBLED_SCOPE.sub(r"\1/", name)


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


def step_entries(step: ConvStep, scope: str, i: int) -> Iterator[Entry]:
    """Yields the entries of step `i` of a block of convolutions."""
    parts = [scope]
    if isinstance(step, GroupedConvStep | MixedConvStep):
        parts = [f"{scope}/part_{g}" for g in range(step.num_groups)]
    parts = [f"{part}/conv_block_{i}_single" for part in parts]
    if isinstance(step, MixedConvStep):
        # One `(taps * channels, filters)` matrix a group: reshaping joins the first three axes.
        kernel = step.parts.kernel
        shape = (step.kernel_size, 1, kernel.shape[1] // step.kernel_size, kernel.shape[2])
        yield Entry(kernel, {f"{part}/kernel": shape for part in parts})
        if step.mix is not None:
            # TensorFlow 1 numbers the layers of a scope, all but the first one.
            name = f"{scope}/conv2d_{i}" if i else f"{scope}/conv2d"
            yield _entry(step.mix.kernel, f"{name}/kernel", (1, 1))
            yield _entry(step.mix.bias, f"{name}/bias")
    else:
        # Our one depthwise kernel holds those of the groups side by side.
        size, _, channels, _ = step.depthwise_kernel.shape
        shape = (size, 1, channels // len(parts), 1)
        names = {f"{part}/depthwise_kernel": shape for part in parts}
        yield Entry(step.depthwise_kernel, names, axis=2)
        kernel = step.pointwise.kernel
        shape = (1, 1, *kernel.shape[-2:])
        yield Entry(kernel, {f"{part}/pointwise_kernel": shape for part in parts})
    yield from norm_entries(step.norm, f"{scope}/conv_block_norm_{i}")


def norm_entries(norm: LayerNorm, scope: str) -> Iterator[Entry]:
    """Yields the entries of a layer normalization."""
    yield _entry(norm.scale, f"{scope}/layer_norm_scale")
    yield _entry(norm.offset, f"{scope}/layer_norm_bias")


def attention_entries(attention: SliceNetAttention, scope: str) -> Iterator[Entry]:
    """Yields the entries of a `SliceNetAttention`."""
    for i, step in enumerate(attention.steps):
        yield from step_entries(step, f"{scope}/targets_time", i)
    yield from norm_entries(attention.norm, f"{scope}/attn_norm")


def stack_entries(stack: SliceNetStack, scope: str) -> Iterator[Entry]:
    """Yields the entries of a `SliceNetStack`."""
    for n, steps in enumerate(stack.layers):
        layer = f"{scope}/layer_{n}"
        for i, step in enumerate(steps):
            # Two steps are the first residual block; the second one counts from 0 again.
            block, position = (1, i) if i < 2 else (2, i - 2)
            yield from step_entries(step, f"{layer}/residual{block}", position)
        if stack.attentions:
            yield from attention_entries(stack.attentions[n], layer)


def middle_entries(middle: SliceNetMiddle, scope: str) -> Iterator[Entry]:
    """Yields the entries of a `SliceNetMiddle`."""
    yield _entry(middle.target_spaces, f"{scope}/target_space_embedding/kernel")
    yield from attention_entries(middle.attention, scope)
    yield from step_entries(middle.merge, f"{scope}/targets_merge", 0)


def expert_entries(experts: MoELayer, scope: str) -> Iterator[Entry]:
    """Yields the entries of an `MoELayer` with a `NoisyTopKRouter`."""
    yield _entry(experts.router.gate_kernel, f"{scope}/moe_primary_gating_gate")
    yield _entry(experts.router.noise_kernel, f"{scope}/moe_primary_gating_noise")
    for i, kernel in enumerate(experts.expert_kernels):
        count, *shape = kernel.shape
        yield Entry(kernel, {f"{scope}/moe_{e}_layer_{i}": tuple(shape) for e in range(count)})
    yield from norm_entries(experts.norm, f"{scope}/moe_norm")


def modality_entries(
    net: ModalityNet, num_shards: int = 16, is_target: bool = False
) -> Iterator[Entry]:
    """Yields the entries of a modality net."""
    if isinstance(net, TextModality):
        scope = f"symbol_modality_{net.vocabulary_size}_{net.hidden_dim}"
        tables = {"input_emb": net.embeddings}
        if is_target:
            tables = {"target_emb": net.embeddings, "softmax": net.output_embeddings}
        for name, table in tables.items():
            yield _table_entry(table, f"{scope}/{name}", num_shards)
    elif isinstance(net, modalities.ClassModality2017):
        scope = f"class_label_modality_{net.num_classes}_{net.hidden_dim}"
        yield from exit_flow_entries(net.exit_flow, scope)
    elif isinstance(net, ImageModality):
        yield from _conv_entries(net.conv_0, net.norm_0, "image_modality/conv0")
        yield from _conv_entries(net.conv_1, net.norm_1, "image_modality/conv1")
        for i, block in enumerate(net.blocks):
            yield from conv_res_entries(block, f"image_modality/block{i}")
    elif isinstance(net, modalities.AudioModality2017):
        scope = f"audio_{'spectral_' if net.spectral else ''}modality"
        for i, block in enumerate(net.blocks):
            # The authors number the blocks that the compression asks for, and add one.
            name = "final" if i == net.compression else i
            yield from conv_res_entries(block, f"{scope}/compress_block_{name}")


def _table_entry(table, scope, num_shards):
    rows, width = table.shape
    # The first shards hold one row more where the rows do not divide evenly.
    sizes = [rows // num_shards + (i < rows % num_shards) for i in range(num_shards)]
    shapes = {f"{scope}/weights_{i}": (size, width) for i, size in enumerate(sizes)}
    return Entry(table, shapes, axis=0)


def exit_flow_entries(flow: modalities.ExitFlow2017, scope: str) -> Iterator[Entry]:
    """Yields the entries of an `ExitFlow2017`."""
    names = ["res_conv", "conv0", "conv1", "conv2", "conv3"]
    convs = zip([flow.shortcut_conv, *flow.convs], [flow.shortcut_norm, *flow.norms])
    # Of the two kernels for grids, "_std" is the one for more than one column; see `ExitFlow2017`.
    suffix = "std" if flow.rank == 4 else "single"
    for name, (conv, norm) in zip(names, convs):
        block = f"{scope}/conv_block_downsample/{name}"
        yield from _conv_entries(conv, norm, block, suffix=suffix)
        if flow.rank == 4:
            yield from _kernel_entries(flow.small[conv.name], f"{block}/conv_block_0_small")
    yield _entry(flow.head.kernel, f"{scope}/conv_single/kernel", (1, 1))
    yield _entry(flow.head.bias, f"{scope}/conv_single/bias")


def conv_res_entries(block: ConvRes, scope: str) -> Iterator[Entry]:
    """Yields the entries of a `ConvRes`."""
    yield from _conv_entries(block.conv_0, block.norm_0, f"{scope}/sep_conv_block")
    yield from _conv_entries(block.conv_1, block.norm_1, f"{scope}/sep_conv_block", 1)
    yield from _conv_entries(block.shortcut_conv, block.shortcut_norm, f"{scope}/res_conv0")


def _conv_entries(conv, norm, block, i=0, suffix="single"):
    """Yields the entries of convolution `i` of a block, and of its normalization."""
    yield from _kernel_entries(conv.weights, f"{block}/conv_block_{i}_{suffix}")
    yield from norm_entries(norm, f"{block}/conv_block_norm_{i}")


def _kernel_entries(kernels, scope):
    names = ["depthwise_kernel", "pointwise_kernel"] if len(kernels) == 2 else ["kernel"]
    for variable, name in zip(kernels, names):
        yield _entry(variable, f"{scope}/{name}")


def _entry(variable, name, axes=()):
    """Returns an entry of one original variable, which has some axes of size 1 in front."""
    return Entry(variable, {name: (*axes, *variable.shape)})


def _read_checkpoint(path):
    import tensorflow as tf

    if not Path(f"{path}.index").exists() and not Path(path).exists():
        raise ValueError(
            "`source` must be a dict or the path of a TensorFlow checkpoint. "
            f"Received: source={path}"
        )
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
