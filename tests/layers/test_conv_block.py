import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.conv_block import ConvBlock
from tests import references
from tests.layer_contract import run_layer_test


@settings(deadline=None, max_examples=10)
@given(
    length=st.integers(1, 14),
    sizes=st.sampled_from([(3, 3, 15, 15), (3, 3), (5,), (1, 2, 3)]),
    padding=st.sampled_from(["same", "causal"]),
    masked=st.booleans(),
)
def test_equals_float64(length, sizes, padding, masked):
    x = np.random.default_rng(length).normal(size=(2, length, 4)).astype("float32")
    mask = np.arange(length) < [[length], [length // 2]] if masked else None
    layer = ConvBlock(4, sizes, padding=padding)
    y = ops.convert_to_numpy(layer(x, mask=mask))
    np.testing.assert_allclose(y, references.conv_block(layer, x, mask), atol=1e-4)


def test_is_the_block_of_the_paper():
    # h1 = step(x), h2 = x + step(h1), h3 = step(h2), h4 = x + step(h3); the last step dilated by 8.
    x = np.random.default_rng(0).normal(size=(1, 20, 4)).astype("float32")
    layer = ConvBlock(4)
    y = ops.convert_to_numpy(layer(x))
    steps = layer.steps
    h2 = x + references.conv_step(steps[1], references.conv_step(steps[0], x))
    h4 = x + references.conv_step(steps[3], references.conv_step(steps[2], h2))
    np.testing.assert_allclose(y, h4, atol=1e-4)
    assert [step.kernel_size for step in steps] == [3, 3, 15, 15]
    assert [step.dilation_rate for step in steps] == [1, 1, 1, 8]


def test_own_dilation_rates():
    layer = ConvBlock(4, kernel_sizes=(3, 5), dilation_rates=(2, 3))
    x = np.random.default_rng(0).normal(size=(1, 20, 4)).astype("float32")
    y = ops.convert_to_numpy(layer(x))
    assert [step.dilation_rate for step in layer.steps] == [2, 3]
    np.testing.assert_allclose(y, references.conv_block(layer, x), atol=1e-4)


def test_drops_while_training_only():
    layer = ConvBlock(4, (3, 3), dropout=0.5)
    x = np.random.default_rng(0).normal(size=(4, 20, 4)).astype("float32")
    trained = ops.convert_to_numpy(layer(x, training=True))
    assert 0.3 < np.mean(trained == 0) < 0.7
    assert np.all(ops.convert_to_numpy(layer(x, training=False)) != 0)


@pytest.mark.parametrize("padding", ["same", "causal"])
def test_keeps_the_contract_of_layers(padding):
    run_layer_test(
        ConvBlock,
        init_kwargs={
            "hidden_dim": 4,
            "kernel_sizes": (3, 5),
            "dilation_rates": (1, 2),
            "padding": padding,
            "dropout": 0.1,
        },
        input_shape=(2, 5, 4),
        expected_output_shape=(2, 5, 4),
        expected_num_trainable_weights=8,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=1,
        supports_masking=True,
    )


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_refuses_a_dropout(dropout):
    with pytest.raises(ValueError, match=f"`dropout` must be .* Received: dropout={dropout}"):
        ConvBlock(4, dropout=dropout)


@pytest.mark.parametrize("sizes, rates", [((3, 3), (1,)), ((), ()), ((3,), (1, 2))])
def test_refuses_steps(sizes, rates):
    with pytest.raises(ValueError, match="`kernel_sizes` and `dilation_rates`") as error:
        ConvBlock(4, sizes, rates)
    assert f"Received: kernel_sizes={sizes}, dilation_rates={rates}" in str(error.value)


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 4), (2, 5, 5, 4)])
def test_refuses_inputs(shape):
    with pytest.raises(ValueError, match="`inputs` must have shape") as error:
        ConvBlock(4)(np.zeros(shape))
    assert f"Received: inputs.shape={shape}, hidden_dim=4" in str(error.value)


def test_refuses_a_padding():
    with pytest.raises(ValueError, match="Received: padding='valid'"):
        ConvBlock(4, padding="valid")
