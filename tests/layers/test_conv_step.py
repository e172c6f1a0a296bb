import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.tensor2tensor.blocks import SliceNetTimingSignal
from tests import references
from tests.layer_contract import run_layer_test
from tests.layers.modalities import conv_res_weights as golden


def golden_steps(file, path, filters, sizes, rates, padding):
    steps = []
    for i, (size, rate) in enumerate(zip(sizes, rates)):
        kernel, pointwise = (
            file[f"{path}/conv_block_{i}_single/{name}_kernel"]
            for name in ("depthwise", "pointwise")
        )
        step = ConvStep(filters, size, rate, padding)
        step.build((None, None, kernel.shape[2]))
        step.depthwise_kernel.assign(kernel)
        step.pointwise.set_weights([pointwise[0, 0]])
        golden.set_norm(step.norm, file, f"{path}/conv_block_norm_{i}")
        steps.append(step)
    return steps


@pytest.mark.parametrize("name, padding", [("sep0_SAME_mask", "same"), ("sep0_LEFT", "causal")])
def test_two_of_them_are_a_block_of_the_authors_code(name, padding):
    file = golden.load("i_conv_blocks_a")
    x = file["in/x"][:, :, 0]
    mask = file["in/mask"][:, :, 0, 0] > 0 if padding == "same" else None
    for step in golden_steps(file, f"var/{name}", 18, (3, 15), (1, 4), padding):
        x = step(x, mask=mask)
    assert golden.relative_error(x, file[f"out/{name}"][:, :, 0]) < 1e-4


def test_the_query_of_the_authors_attention():
    file = golden.load("iii_attention_sep0")
    targets, source = (file[f"in/{n}"][:, :, 0] for n in ("targets_shifted", "inputs_encoded"))
    q = SliceNetTimingSignal()(targets)
    for step in golden_steps(file, "var/att/targets_time", 36, (5, 5), (1, 4), "causal"):
        q = step(q)
    scores = references.array(q) @ np.swapaxes(source, 1, 2) / 36**0.5
    scores += (1 - file["in/mask"][:, None, :, 0, 0]) * -1e9
    found = references.softmax(scores) @ source
    scale, offset = (file[f"var/att/attn_norm/layer_norm_{n}"] for n in ("scale", "bias"))
    y = references.layer_norm(targets + found, scale, offset)
    assert np.abs(y - file["out/attention"][:, :, 0]).max() < 1e-4 * np.abs(y).max()


@settings(deadline=None, max_examples=15)
@given(
    length=st.integers(1, 9),
    size=st.integers(1, 5),
    rate=st.integers(1, 3),
    padding=st.sampled_from(["same", "causal"]),
    masked=st.booleans(),
)
def test_equals_float64(length, size, rate, padding, masked):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, length, 4)).astype("float32")
    mask = np.arange(length) < [[length], [length // 2]] if masked else None
    layer = ConvStep(6, size, rate, padding)
    y = ops.convert_to_numpy(layer(x, mask=mask))
    assert y.shape == (2, length, 6)
    np.testing.assert_allclose(y, references.conv_step(layer, x, mask), atol=1e-4)


@pytest.mark.parametrize("padding", ["same", "causal"])
def test_keeps_the_contract_of_layers(padding):
    run_layer_test(
        ConvStep,
        init_kwargs={"filters": 6, "kernel_size": 3, "dilation_rate": 2, "padding": padding},
        input_shape=(2, 5, 4),
        expected_output_shape=(2, 5, 6),
        expected_num_trainable_weights=4,  # depthwise, pointwise, scale, offset
        expected_num_non_trainable_weights=0,
        supports_masking=True,
    )


@pytest.mark.parametrize("value", [0, -2, 1.5])
@pytest.mark.parametrize("name", ["filters", "kernel_size", "dilation_rate"])
def test_refuses_a_size(name, value):
    arguments = {"filters": 4, "kernel_size": 3, name: value}
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}={value}"):
        ConvStep(**arguments)


def test_refuses_a_padding():
    with pytest.raises(ValueError, match="`padding` must be .* Received: padding='valid'"):
        ConvStep(4, 3, padding="valid")
