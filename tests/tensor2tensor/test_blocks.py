"""The parts of the authors' model against the authors' numbers."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.layers import ImageModality, MoELayer, NoisyTopKRouter
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.tensor2tensor import weights
from keras_multimodel.tensor2tensor.blocks import (
    SliceNetAttention,
    SliceNetMiddle,
    SliceNetStack,
)
from keras_multimodel.tensor2tensor.conv_steps import (
    GroupedConvStep,
    GroupedDense,
    MixedConvStep,
    make_conv_step,
)
from keras_multimodel.tensor2tensor.modalities import (
    AudioModality2017,
    ClassModality2017,
    FlattenPositions,
)
from tests.layer_contract import run_layer_test
from tests.tensor2tensor import golden_2017 as golden

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="gradients are taken with a tf.GradientTape"
)

# Per block its steps: separability, filters, kernel size, dilation rate.
BLOCKS = {
    "sep0_SAME_mask": [(0, 18, 3, 1), (0, 18, 15, 4)],
    "sep0_LEFT": [(0, 18, 3, 1), (0, 18, 15, 4)],
    "sepm3m2_SAME_mask": [(-3, 12, 3, 1), (-2, 12, 7, 1)],
    "sepm3m2_LEFT": [(-3, 12, 3, 1), (-2, 12, 7, 1)],
    "sep4_LEFT": [(4, 16, 3, 1)],
    "plain_SAME_dil2": [(1, 10, 3, 1), (1, 10, 5, 2)],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_conv_blocks_match_the_authors_code(name):
    file = golden.load("i_conv_blocks_a")
    if name.startswith("plain"):  # there a plain convolution is no part of anything
        file = {k.replace("/conv_block_", "/part_0/conv_block_"): v for k, v in file.items()}
        file = {k.replace("/part_0/conv_block_norm", "/conv_block_norm"): file[k] for k in file}
    x = file["in/x"][:, :, 0]
    mask = file["in/mask"][:, :, 0, 0] > 0 if "mask" in name else None
    padding = "causal" if "LEFT" in name else "same"
    for i, (separability, filters, size, rate) in enumerate(BLOCKS[name]):
        step = make_conv_step(separability, filters, size, rate, padding)
        step.build(x.shape)
        golden.assign(file, weights.step_entries(step, name, i))
        x = step(x, mask=mask)
    assert golden.relative_error(x, file[f"out/{name}"][:, :, 0]) < 1e-4


def test_plain_convolution_without_relu_matches_the_authors_code():
    file = golden.load("i_conv_blocks_a")
    x = file["in/x"][:, :, 0]
    conv = keras.layers.Conv1D(10, 3, dilation_rate=2, padding="causal", use_bias=False)
    norm = LayerNorm()
    conv.build(x.shape)
    norm.build((None, 10))
    scope = "var/plain_LEFT_norelu/conv_block"
    conv.kernel.assign(file[f"{scope}_0_single/kernel"][:, 0])
    norm.scale.assign(file[f"{scope}_norm_0/layer_norm_scale"])
    norm.offset.assign(file[f"{scope}_norm_0/layer_norm_bias"])
    assert golden.relative_error(norm(conv(x)), file["out/plain_LEFT_norelu"][:, :, 0]) < 1e-4


STACKS = {
    "enc_sep0_SAME": dict(num_layers=2),
    "enc_sepm2_SAME": dict(num_layers=1, separability=-2),
    "dec_sep0_LEFT": dict(num_layers=1, padding="causal"),
    "enc_fallback_SAME": dict(
        num_layers=1, kernel_sizes=(3, 3, 15, 15), dilation_rates=(1, 1, 1, 4)
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks_match_the_authors_code(name):
    file = golden.load("i_multi_conv_res_a")
    x, source, x_mask, source_mask = (
        file[f"in/{key}"][:, :, 0] for key in ("x", "source", "x_mask", "source_mask")
    )
    stack = SliceNetStack(36, dropout=0.0, **STACKS[name])
    reads = {"mask": x_mask[..., 0] > 0}
    if name.startswith("dec"):
        reads = {"source": source, "source_mask": source_mask[..., 0] > 0}
    stack(x, **reads)
    golden.assign(file, weights.stack_entries(stack, name.rpartition("_")[0]))
    assert golden.relative_error(stack(x, **reads), file[f"out/{name}"][:, :, 0]) < 1e-4


@pytest.fixture
def attending():
    file = golden.load("iii_attention_sep0")
    tensors = {
        k: file[f"in/{k}"][:, :, 0] for k in ("targets_shifted", "inputs_encoded", "targets")
    }
    return file, {**tensors, "mask": file["in/mask"][:, :, 0, 0] > 0}


def test_attention_matches_the_authors_code(attending):
    file, x = attending
    attention = SliceNetAttention(36)
    attention.build(x["targets_shifted"].shape)
    golden.assign(file, weights.attention_entries(attention, "att"))
    read = x["targets_shifted"], x["inputs_encoded"], x["mask"]
    raw = attention.attend(*(ops.convert_to_tensor(a) for a in read))
    assert golden.relative_error(raw, file["out/simple_attention_raw"][:, :, 0]) < 1e-4
    assert golden.relative_error(attention(*read), file["out/attention"][:, :, 0]) < 1e-4


def test_middle_matches_the_authors_code(attending):
    file, x = attending
    middle = SliceNetMiddle(36)
    middle.build(x["targets"].shape)
    golden.assign(file, weights.middle_entries(middle, "mid"))
    space = np.full(2, file["in/target_space_id"])
    shifted = middle.shift(ops.convert_to_tensor(x["targets"]), space)
    y = middle(x["targets"], x["inputs_encoded"], space, source_mask=x["mask"])
    reference = file["out/targets_shifted_in_middle"][:, :, 0]
    assert golden.relative_error(shifted, reference) < 1e-4
    assert golden.relative_error(y, file["out/middle"][:, :, 0]) < 1e-4


def test_a_source_of_padding_alone_is_attended_to_evenly(attending):
    _, x = attending
    attention = SliceNetAttention(36)
    queries, source = (ops.convert_to_tensor(x[k]) for k in ("targets", "inputs_encoded"))
    found = attention.attend(queries, source, ops.zeros((2, 8), "bool"))
    mean = x["inputs_encoded"].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(ops.convert_to_numpy(found), np.repeat(mean, 6, 1), atol=1e-5)


@pytest.fixture
def moe():
    file = golden.load("vi_moe_a_n8_k2")
    layer = MoELayer(12, 8, 2)
    layer.build((None, None, 12))
    golden.assign(file, weights.expert_entries(layer, "experts_enc"))
    return file, layer


def test_experts_match_the_authors_code(moe):
    file, layer = moe
    x = file["in/x"][:, :, 0]
    assert golden.relative_error(layer(x), file["out/y_eval"][:, :, 0]) < 1e-4
    assert float(layer.router(x).loss) == pytest.approx(float(file["out/loss_eval"]), rel=1e-4)


@on_tensorflow
def test_gradients_of_experts_match_the_authors_code(moe):
    import tensorflow as tf

    file, layer = moe
    golden.use_noise(layer, file["in/noise"])
    with tf.GradientTape() as tape:
        y = layer(file["in/x"][:, :, 0], training=True)
        loss = tf.reduce_sum(y * file["in/dy"][:, :, 0]) + sum(layer.losses)
    assert golden.relative_error(y, file["out/y_train"][:, :, 0]) < 1e-4
    assert float(sum(layer.losses)) == pytest.approx(0.01 * file["out/loss_train"], rel=1e-4)
    check_gradients(file, tape, loss, list(weights.expert_entries(layer, "experts_enc")))


def scattered(routing, num_experts):
    """Returns the gates `(tokens, num_experts)`, 0 where an expert was not chosen."""
    one_hot = ops.one_hot(routing.indices, num_experts)
    return ops.sum(routing.gates[..., None] * one_hot, axis=1)


@on_tensorflow
def test_gating_matches_the_authors_code():
    import tensorflow as tf

    file = golden.load("v_gating_n8_k2")
    router = NoisyTopKRouter(8, 2)
    router.build((None, 10))
    router.gate_kernel.assign(file["var/g_gate"])
    router.noise_kernel.assign(file["var/g_noise"])
    routing = router(file["in/x"])
    assert golden.relative_error(scattered(routing, 8), file["out/gates_eval"]) < 1e-4
    expected = file["out/cv2_importance_eval"] + file["out/cv2_load_eval"]
    assert float(routing.loss) == pytest.approx(float(expected), rel=1e-4)
    kernels = [router.gate_kernel.value, router.noise_kernel.value]
    with tf.GradientTape() as tape:
        routing = router(file["in/x"], training=True, noise=file["in/noise"])
    assert golden.relative_error(scattered(routing, 8), file["out/gates_train"]) < 1e-4
    expected = file["out/cv2_importance_train"] + file["out/cv2_load_train"]
    assert float(routing.loss) == pytest.approx(float(expected), rel=1e-4)
    for gradient, name in zip(tape.gradient(routing.loss, kernels), ("gate", "noise")):
        assert golden.relative_error(gradient, file[f"out/dloss_d{name}"]) < 1e-3


def check_gradients(file, tape, loss, entries):
    """Compares gradients, each stacked or cut as the variable itself is."""
    gradients = tape.gradient(loss, [entry.variable.value for entry in entries])
    for entry, gradient in zip(entries, gradients):
        reference = entry.join([file[f"out/grad/{name}"] for name in entry.shapes])
        assert golden.relative_error(gradient, reference) < 1e-3, entry.shapes


def test_image_net_matches_the_authors_code():
    file = golden.load("vii_image_bottom")
    net = ImageModality(48)
    net.build((None, None, None, 3))
    golden.assign(file, weights.modality_entries(net))
    assert golden.relative_error(net(file["in/x"]), file["out/y"]) < 1e-4


def test_class_net_matches_the_authors_code():
    file = golden.load("vii_class_label_top_2d")
    net = ClassModality2017(7, 16, is_grid=True)
    grid = ops.zeros((2, 6, 6, 16))
    net(file["in/x"][:, :, 0], reverse=True, like=grid)
    golden.assign(file, weights.modality_entries(net))
    logits = net(file["in/x"][:, :, 0], reverse=True, like=grid)
    assert golden.relative_error(logits, file["out/logits"][:, 0, 0, 0]) < 1e-4


@pytest.mark.parametrize(
    "name, key, tolerance", [("audio_w4", "wave_w4", 1e-4), ("audio_w1", "wave_w1", 5e-3)]
)
def test_audio_net_matches_the_authors_code(name, key, tolerance):
    file = golden.load("viii_audio_bottom")
    net = AudioModality2017(20, compression=3)
    net.build((None, None, None, 1))
    golden.assign(file, weights.modality_entries(net), prefix="var/A/")
    x = file[f"in/{key}"].astype("float32")
    assert golden.relative_error(net(x), file[f"out/{name}"]) < tolerance


def test_spectral_audio_net_matches_the_authors_code():
    file = golden.load("viii_audio_bottom")
    net = AudioModality2017(20, compression=3, spectral=True)
    net.build((None, None, None, 1))
    golden.assign(file, weights.modality_entries(net), prefix="var/S/")
    x = file["in/spectral_bits"].view("float32")  # their files hold the bits as int32
    assert golden.relative_error(net(x), file["out/spectral"]) < 1e-4


def test_flatten_finds_padding():
    x = np.zeros((1, 2, 2, 3), "float32")
    x[0, 0, 1, 2] = -1.0
    sequence, mask = FlattenPositions()(x)
    assert sequence.shape == (1, 4, 3)
    assert ops.convert_to_numpy(mask).tolist() == [[False, True, False, False]]


@pytest.mark.parametrize(
    "layer, kwargs, num_weights",
    [
        (GroupedConvStep, {"filters": 6, "kernel_size": 3, "num_groups": 3}, 4),
        (MixedConvStep, {"filters": 7, "kernel_size": 3, "num_groups": 2, "dilation_rate": 2}, 5),
        (MixedConvStep, {"filters": 4, "kernel_size": 2, "num_groups": 1, "padding": "causal"}, 3),
    ],
)
def test_steps_keep_the_contract_of_layers(layer, kwargs, num_weights):
    run_layer_test(
        layer,
        init_kwargs=kwargs,
        input_shape=(2, 5, 6),
        expected_output_shape=(2, 5, kwargs["filters"]),
        expected_num_trainable_weights=num_weights,
    )


def test_the_other_blocks_keep_the_contract_of_layers():
    run_layer_test(
        SliceNetStack,
        # Two layers of four steps, with depthwise, pointwise, scale and offset each.
        init_kwargs={"hidden_dim": 6, "num_layers": 2, "separability": -1, "dropout": 0.2},
        input_shape=(2, 5, 6),
        expected_output_shape=(2, 5, 6),
        expected_num_trainable_weights=32,
    )
    run_layer_test(
        GroupedDense,
        init_kwargs={"units": 6, "num_groups": 2},
        input_shape=(5, 4),
        expected_output_shape=(5, 6),
        expected_num_trainable_weights=1,
    )
    run_layer_test(
        AudioModality2017,
        init_kwargs={"hidden_dim": 6, "compression": 1, "spectral": True},
        input_shape=(2, 9, 4, 1),
        expected_output_shape=(2, 3, 4, 6),
        # Two blocks of two separable convolutions, a shortcut and three norms.
        expected_num_trainable_weights=22,
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GroupedConvStep(10, 3, num_groups=3), "`filters`.*num_groups=3, filters=10"),
        (lambda: MixedConvStep(8, 3, num_groups=4).build((1, 5, 6)), "num_groups=4, channels=6"),
        (lambda: GroupedConvStep(8, 3, num_groups=0), "num_groups=0"),
    ],
)
def test_groups_that_do_not_divide_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
