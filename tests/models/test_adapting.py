"""Adapters that train in place of a model, and models of 8-bit integers."""

import copy

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel import _keras_compat
from keras_multimodel.layers import MoELayer
from tests.models.small_models import (
    HIDDEN_DIM,
    build,
    make_batch,
    make_tasks,
    max_difference,
    numpy_outputs,
    set_weights,
)
from tests.references import array

RANK = 3
IDS = [np.array([3, 4, 5, 1]), np.array([7, 1])]


def make():
    moe = MoELayer(HIDDEN_DIM, 4, 2, gated=True, shared_expert_dim=6)
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 1}
    return set_weights(build(make_tasks("copy", "topic"), moe=moe, **sizes))


@pytest.fixture(scope="module")
def plain():
    """A model that no test changes."""
    return make()


@pytest.fixture
def model(plain):
    return copy.deepcopy(plain)


def outputs(model):
    x, _ = make_batch(model.tasks.values(), (5, 3))
    return numpy_outputs(model(x, training=False))


def move(model, seed=0):
    """Gives the adapters values, as training would."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        if weight.name.endswith("_b"):
            weight.assign(0.1 * rng.normal(size=weight.shape))


def step(model):
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.train_on_batch(*make_batch(model.tasks.values(), (4, 3)))


def adapted(model):
    found = _keras_compat.all_layers(model)
    return [layer for layer in found if getattr(layer, "lora_enabled", False)]


def state(model):
    return [(w.name, w.trainable, str(w.dtype), tuple(w.shape)) for w in model.weights]


def test_adapters_change_nothing_at_first_and_are_all_that_trains(plain, model):
    before = outputs(plain)
    model.enable_lora(RANK)
    after = outputs(model)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    assert all("lora_" in weight.name for weight in model.trainable_weights)
    # Two factors for each matrix: those of the layers below, and of every part.
    assert len(model.trainable_weights) == 2 * sum(
        len(getattr(layer, "matrices", "1")) for layer in adapted(model)
    )
    kinds = {type(layer).__name__ for layer in adapted(model)}
    assert kinds == {"Conv2D", "Dense", "MoELayer", "SeparableConv2D", "TextModality"}
    base = [np.array(w) for w in model.non_trainable_weights if "_t" not in w.name]
    step(model)
    after = [np.array(w) for w in model.non_trainable_weights if "_t" not in w.name]
    for one, two in zip(base, after, strict=True):
        np.testing.assert_array_equal(one, two)
    assert max_difference(outputs(model), before) > 1e-3


def test_parts_and_what_is_unfrozen(model):
    model.enable_lora(RANK, parts=["experts", "topic"])
    roots = [layer for part in ("experts", "topic") for layer in model.parts[part]]
    inside = {id(layer) for root in roots for layer in _keras_compat.all_layers(root)}
    assert all(id(layer) in inside for layer in adapted(model))
    model.unfreeze("decoder")
    own = {id(w) for layer in model.parts["decoder"] for w in layer.trainable_weights}
    assert own and all("lora_" in w.name or id(w) in own for w in model.trainable_weights)
    model.enable_lora(2, parts="mixer")
    assert {layer.lora_rank for layer in adapted(model)} == {2, RANK}


def test_merged_matrices_are_the_sum_of_numpy(model):
    count = len(model.trainable_weights)
    model.enable_lora(RANK, parts=["encoder", "shared_nets", "topic"], alpha=6)
    move(model)
    experts, text = model.body.encoder.experts, model.tasks["copy"].inputs
    conv = model.tasks["topic"].targets.exit_flow.shortcut_conv
    layers = [(experts, n) for n in experts.matrices] + [(text, "embeddings"), (conv, "kernel")]
    expected = []
    for layer, name in layers:
        a, b = (array(getattr(layer, f"lora_{name}_{factor}")) for factor in "ab")
        expected.append(array(getattr(layer, name)) + 6 / RANK * np.matmul(a, b))
        np.testing.assert_allclose(array(layer.value(name)), expected[-1], atol=1e-6)
    before, written = outputs(model), list(map(list, model.generate("copy", IDS, max_length=4)))
    scores = model.score("copy", IDS, IDS)
    model.merge_lora()
    assert not adapted(model) and not model.trainable_weights
    for (layer, name), value in zip(layers, expected):
        np.testing.assert_allclose(array(getattr(layer, name)), value, atol=1e-6)
    assert max_difference(outputs(model), before) < 1e-5
    np.testing.assert_allclose(model.score("copy", IDS, IDS), scores, atol=1e-5)
    assert list(map(list, model.generate("copy", IDS, max_length=4))) == written
    model.unfreeze()
    assert len(model.trainable_weights) == count


def test_steps_with_caches_have_adapters_too(model):
    model.enable_lora(RANK)
    move(model)
    cached, whole = (
        list(map(list, model.generate("copy", IDS, max_length=4, use_cache=use)))
        for use in (True, False)
    )
    assert cached == whole


@pytest.mark.parametrize(
    "way,quantized", [("file", True), ("deepcopy", False), ("clone", False), ("preset", True)]
)
def test_adapters_survive(way, quantized, model, tmp_path):
    if quantized:
        model.quantize("int8")
    model.enable_lora(RANK, parts=["encoder", "decoder", "shared_nets"], alpha=1)
    model.unfreeze("topic")
    move(model)
    if way == "file":
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
    elif way == "deepcopy":
        again = copy.deepcopy(model)
    elif way == "clone":
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
    else:
        model.save_to_preset(tmp_path)
        again = kmm.MultiModel.from_preset(tmp_path)
    assert state(again) == state(model)
    assert max_difference(outputs(again), outputs(model)) < 1e-6
    for one, two in zip(model.weights, again.weights):
        np.testing.assert_array_equal(np.array(one), np.array(two))


@pytest.mark.slow
def test_models_that_share_layers_share_adapters(model):
    single = model.task_model("copy")
    single.generate("copy", IDS, max_length=3)  # compiled without adapters
    before = single.score("copy", IDS, IDS)
    model.enable_lora(RANK)
    move(model)
    scores = single.score("copy", IDS, IDS)
    assert np.abs(scores - before).max() > 1e-3
    model.merge_lora()
    np.testing.assert_allclose(single.score("copy", IDS, IDS), scores, atol=1e-5)


def test_a_model_with_adapters_must_be_compiled_again(model):
    model.compile("adam")
    model.enable_lora(RANK)
    with pytest.raises(ValueError, match="compile"):
        model.fit(*make_batch(model.tasks.values(), (4, 3)), verbose=0)


@pytest.mark.slow
def test_integers_are_as_good_as_the_floats_up_to_rounding(plain, model, tmp_path):
    model.quantize("int8")
    floats = {w.path.split("/")[-1] for w in model.weights if str(w.dtype) != "int8"}
    assert not {name for name in floats if name in ("kernel", "embeddings", "pointwise_kernel")}
    experts, whole = model.body.decoder.experts, plain.body.decoder.experts
    for name in experts.matrices:
        # Within half a step of the integers of its column, the largest of which is 127.
        kernel = array(getattr(whole, name))
        size = np.abs(kernel).max(axis=1, keepdims=True) / 127
        assert (np.abs(array(experts.value(name)) - kernel) <= 0.51 * size).all()
    before, after = outputs(plain), outputs(model)
    for name in before:
        assert 0 < np.abs(after[name] - before[name]).max() < 0.1 * np.abs(before[name]).max()
    written = list(map(list, model.generate("copy", IDS, max_length=4)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert list(map(list, loaded.generate("copy", IDS, max_length=4))) == written
    assert not model.trainable_weights or all(
        len(w.shape) < 2 or "depthwise" in w.name or "router" in w.path
        for w in model.trainable_weights
    )


def test_some_layers_alone_and_their_config_are_kept(model):
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    model.quantize(config=config, filters=["^query$", "experts"])
    names = {x.name for x in _keras_compat.all_layers(model) if x.quantization_mode == "int8"}
    assert names == {"query", "experts"}
    again = copy.deepcopy(model)
    (query,) = {x for x in _keras_compat.all_layers(again.body.mixer) if x.name == "query"} - {
        again.body.mixer.attention.source_attention.query
    }
    assert query.quantization_config.activation_quantizer is None
    assert max_difference(outputs(again), outputs(model)) == 0


def test_adapters_of_integers_can_be_merged(model):
    model.quantize("int8")
    model.enable_lora(RANK)
    move(model)
    before = outputs(model)
    model.merge_lora()
    assert not adapted(model)
    for name, after in outputs(model).items():  # rounded anew
        assert np.abs(after - before[name]).max() < 0.2 * np.abs(before[name]).max()


@pytest.mark.slow
def test_half_precision():
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(make_tasks("copy"), num_encoder_blocks=1, num_mixer_blocks=1)
    finally:
        keras.config.set_dtype_policy(with_policy)
    model.enable_lora(RANK)
    move(model)
    before = outputs(model)
    assert len(model.generate("copy", IDS, max_length=3)) == 2
    model.merge_lora()
    assert max_difference(outputs(model), before) < 0.1
    model.quantize("int8")
    assert len(model.generate("copy", IDS, max_length=3)) == 2


def test_bad_arguments_are_refused(model):
    with pytest.raises(ValueError, match="`rank` must be .*rank=0"):
        model.enable_lora(0)
    with pytest.raises(ValueError, match=r"`parts` must be of \['encoder', .*'body'"):
        model.enable_lora(1, parts=["body"])
    with pytest.raises(ValueError, match=r"`parts` must name at least one.*parts=\[\]"):
        model.enable_lora(1, parts=[])
    model.enable_lora(1, parts="encoder")
    with pytest.raises(ValueError, match="`parts` must have no adapters.*parts=None.*encoder"):
        model.enable_lora(1)
    with pytest.raises(ValueError, match="Invalid quantization mode.*int3|`mode`.*int3"):
        model.quantize("int3")
    model.quantize("int8")
    with pytest.raises(ValueError, match="already|once"):
        model.quantize("int8")
