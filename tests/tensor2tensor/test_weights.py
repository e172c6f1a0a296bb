"""The loader of the authors' weights."""

import functools
import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.tensor2tensor import multimodel_2017
from keras_multimodel.tensor2tensor.weights import load_tensor2tensor_weights
from tests.tensor2tensor import golden_2017 as golden

GATE = "body/experts_enc/moe_primary_gating_gate"
SHARD = "symbol_modality_50_36/softmax/weights_3"


@pytest.fixture(scope="module")
def full():
    file = golden.load("x_full_a_symbol_sep0")
    model, features = golden.full_model(file)
    return model, features, golden.variables(file), file["out/logits_eval"][:, :, 0, 0]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="writes a TF checkpoint")
def test_loads_a_checkpoint_and_passes_over_what_only_training_needs(full, tmp_path):
    import tensorflow as tf

    model, features, variables, logits = full
    state = {
        "global_step": np.array(7, "int64"),
        f"training/{GATE}/Adam": variables[GATE],
        f"{GATE}/Adam_1": variables[GATE],
        "losses_avg/problem_0/total_loss": np.float32(1.0),
    }
    everything = {**variables, **state}
    path = str(tmp_path / "model.ckpt-7")
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=list(everything),
        shape_and_slices=[""] * len(everything),
        tensors=list(everything.values()),
    )
    load_tensor2tensor_weights(model, path)
    assert golden.relative_error(model(features), logits) < 1e-4


def test_lists_what_is_missing_left_over_and_of_another_shape_and_loads_nothing(full):
    model, _, variables, _ = full
    load_tensor2tensor_weights(model, variables)
    gate = model.get_layer("experts_enc").router.gate_kernel
    before = ops.convert_to_numpy(gate)
    source = {**variables, "body/novel": np.zeros(3), GATE: np.zeros((36, 5))}
    del source[SHARD]
    with pytest.raises(ValueError, match="`source` must hold exactly the variables") as error:
        load_tensor2tensor_weights(model, source)
    lines = str(error.value).split("\n")
    assert lines[0].endswith("missing (1):") and lines[1].strip() == SHARD
    assert lines[2:4] == ["left over (1):", "  body/novel"]
    assert lines[4:] == ["of another shape (1):", f"  {GATE} is (36, 5) and must be (36, 4)"]
    np.testing.assert_array_equal(ops.convert_to_numpy(gate), before)


def test_tables_may_have_another_number_of_shards(full):
    model, features, variables, logits = full
    tables = {}
    for name in ("input_emb", "target_emb", "softmax"):
        scope = f"symbol_modality_50_36/{name}/weights_"
        tables[f"{scope}0"] = np.concatenate([variables[f"{scope}{i}"] for i in range(16)])
    body = {name: v for name, v in variables.items() if not name.startswith("symbol")}
    load_tensor2tensor_weights(model, {**body, **tables}, num_shards=1)
    assert golden.relative_error(model(features), logits) < 1e-4


def test_accounts_for_what_a_model_of_classes_may_be_without_and_does_not_use():
    options = {"inputs": "image", "targets": "class", "num_classes": 3, "num_layers": 1}
    model = multimodel_2017(**options, hidden_dim=32, num_experts=2)
    variables = golden.random_variables(model)
    assert "body/target_space_embedding/kernel" not in variables
    scope = "class_label_modality_3_32/conv_block_downsample/conv0/conv_block_0"
    unused = {"body/target_space_embedding/kernel": np.zeros((32, 32))}
    load_tensor2tensor_weights(model, {**variables, **unused})
    small = model.get_layer("targets_net").exit_flow.small["conv_0"][0]
    value = variables[f"{scope}_small/depthwise_kernel"]
    np.testing.assert_array_equal(ops.convert_to_numpy(small), value)
    variables = {name: v for name, v in variables.items() if "_small/" not in name}
    load_tensor2tensor_weights(model, variables)
    head = model.get_layer("targets_net").exit_flow.head.bias
    name = "class_label_modality_3_32/conv_single/bias"
    np.testing.assert_array_equal(ops.convert_to_numpy(head), variables[name])
    with pytest.raises(ValueError, match=f"missing \\(1\\):\n  {scope}_std/depthwise_kernel"):
        del variables[f"{scope}_std/depthwise_kernel"]
        load_tensor2tensor_weights(model, {**variables, **unused})


def test_a_path_without_a_checkpoint_is_refused(full):
    with pytest.raises(ValueError, match="`source` must be a dict or .* source=nowhere"):
        load_tensor2tensor_weights(full[0], "nowhere")


# Every modality net of the authors' model, with the scope of its variables.
NETS = {
    "text": ({}, "symbol_modality_50_36"),
    "image": ({"inputs": "image"}, "image_modality"),
    "waveform": ({"inputs": "audio", "audio_compression": 1}, "audio_modality"),
    "spectrogram": (
        {"inputs": "audio_spectral", "audio_compression": 1},
        "audio_spectral_modality",
    ),
    "classes of texts": ({"targets": "class", "num_classes": 3}, "class_label_modality_3_36"),
    "classes of images": (
        {"inputs": "image", "targets": "class", "num_classes": 3},
        "class_label_modality_3_36",
    ),
}


@functools.cache
def make_small(name):
    options, scope = NETS[name]
    sizes = {"vocabulary_size": 50, "hidden_dim": 36, "num_layers": 1, "num_experts": 2}
    model = multimodel_2017(**{**sizes, **options})
    variables = golden.random_variables(model)
    names = [n for n in variables if n.startswith(f"{scope}/")]
    assert names
    return model, variables, names


def doubled(name):
    return re.sub("^([^/]+)/", r"\1/\1/", name)


def loaded(model, source):
    for weight in model.weights:
        weight.assign(ops.zeros_like(weight))
    load_tensor2tensor_weights(model, source)
    return model.get_weights()


@pytest.mark.parametrize("name", NETS)
def test_the_scope_of_a_net_may_stand_twice_in_its_names(name):
    """As in the checkpoints of their whole model, whose nets for texts alone have it once."""
    model, variables, names = make_small(name)
    expected = loaded(model, variables)
    all_of_them = {doubled(n) if n in names else n: v for n, v in variables.items()}
    every_second = {doubled(n) if n in names[::2] else n: v for n, v in variables.items()}
    assert len(variables) == len(all_of_them) and names[0] not in all_of_them
    for source in (all_of_them, every_second):
        for found, value in zip(loaded(model, source), expected, strict=True):
            np.testing.assert_array_equal(found, value)
    # What is truly missing, superfluous or of another shape is still named.
    source = {**all_of_them, doubled(names[1]): np.zeros(3), doubled(f"{names[0]}s"): np.zeros(2)}
    del source[doubled(names[0])]
    with pytest.raises(ValueError, match="exactly the variables of `model`") as error:
        load_tensor2tensor_weights(model, source)
    lines = str(error.value).split("\n")
    assert lines[0].endswith("missing (1):") and lines[1] == f"  {names[0]}"
    assert lines[2:4] == ["left over (1):", f"  {doubled(f'{names[0]}s')}"]
    assert lines[4] == "of another shape (1):"
    assert lines[5].startswith(f"  {doubled(names[1])} is (3,) and must be ") and not lines[6:]


def test_a_variable_in_both_forms_is_refused():
    model, variables, names = make_small("image")
    before = model.get_weights()
    source = {**variables, doubled(names[0]): variables[names[0]]}
    with pytest.raises(ValueError, match=r"given twice \(2\):\n") as error:
        load_tensor2tensor_weights(model, source)
    assert str(error.value).split("\n")[1:] == [f"  {names[0]}", f"  {doubled(names[0])}"]
    for found, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, value)


def test_other_scopes_are_not_taken_for_doubled_ones():
    model, variables, _ = make_small("image")
    for name in ("body/body/encoder1/x", "image_modality/image_modality/image_modality/conv0/x"):
        with pytest.raises(ValueError, match=f"left over \\(1\\):\n  {name}$"):
            load_tensor2tensor_weights(model, {**variables, name: np.zeros(1)})
