import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.attention_block import AttentionBlock
from tests import references
from tests.layer_contract import run_layer_test


def sequences(*lengths):
    rng = np.random.default_rng(sum(lengths))
    return [rng.normal(size=(2, length, 8)).astype("float32") for length in lengths]


@settings(deadline=None, max_examples=8)
@given(
    length=st.integers(1, 7),
    source_length=st.integers(0, 5),
    padding=st.sampled_from(["causal", "same"]),
    masked=st.booleans(),
)
def test_equals_float64(length, source_length, padding, masked):
    targets, source = sequences(length, source_length)
    source = source if source_length else None
    mask = source_mask = None
    if masked:
        mask = np.arange(length) < [[length], [(length + 1) // 2]]
        source_mask = np.arange(source_length) < [[source_length], [(source_length + 1) // 2]]
        source_mask = source_mask if source_length else None
    layer = AttentionBlock(8, num_heads=4, padding=padding)
    arguments = {"source": source, "mask": mask, "source_mask": source_mask}
    y = ops.convert_to_numpy(layer(targets, **arguments))
    expected = references.attention_block(layer, targets, **arguments)
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_drops_while_training_only():
    targets, source = sequences(6, 5)
    layer = AttentionBlock(8, num_heads=2, dropout=0.5)
    still = ops.convert_to_numpy(layer(targets, source))
    trained = ops.convert_to_numpy(layer(targets, source, training=True))
    assert np.abs(trained - still).max() > 0.1
    expected = references.attention_block(layer, targets, source)
    np.testing.assert_allclose(still, expected, atol=1e-4)


@pytest.mark.parametrize("padding", ["causal", "same"])
def test_keeps_the_contract_of_layers(padding):
    run_layer_test(
        AttentionBlock,
        init_kwargs={"hidden_dim": 8, "num_heads": 2, "dropout": 0.1, "padding": padding},
        input_shape={"targets_shape": (2, 5, 8), "source_shape": (2, 3, 8)},
        expected_output_shape=(2, 5, 8),
        # Two steps of 4, two attentions of 4, two norms of 2.
        expected_num_trainable_weights=20,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
        run_training_check=False,  # it passes all inputs as one argument
    )


def test_keeps_the_contract_of_layers_without_a_source():
    run_layer_test(
        AttentionBlock,
        init_kwargs={"hidden_dim": 8, "num_heads": 2},
        input_shape=(2, 5, 8),
        expected_output_shape=(2, 5, 8),
        expected_num_trainable_weights=14,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
    )


def test_refuses_a_source_that_comes_or_goes():
    targets, source = sequences(4, 3)
    layer = AttentionBlock(8, num_heads=2)
    layer(targets, source)
    with pytest.raises(ValueError, match="`source` must be given .* Received: source=None"):
        layer(targets)
    layer = AttentionBlock(8, num_heads=2)
    layer(targets)
    with pytest.raises(ValueError, match="`source` must be given .* Received: source=a tensor"):
        layer(targets, source)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_refuses_a_dropout(dropout):
    with pytest.raises(ValueError, match=f"`dropout` must be .* Received: dropout={dropout}"):
        AttentionBlock(8, dropout=dropout)


def test_refuses_heads_and_padding():
    with pytest.raises(ValueError, match="Received: num_heads=3, hidden_dim=8"):
        AttentionBlock(8, num_heads=3)
    with pytest.raises(ValueError, match="Received: padding='valid'"):
        AttentionBlock(8, padding="valid")


@pytest.mark.parametrize(
    "name, targets, source", [("targets", (2, 5, 6), (2, 5, 8)), ("source", (2, 5, 8), (2, 8))]
)
def test_refuses_shapes(name, targets, source):
    wrong = {"targets": targets, "source": source}[name]
    with pytest.raises(ValueError, match=f"`{name}` must have shape") as error:
        AttentionBlock(8)(np.zeros(targets), np.zeros(source))
    assert f"Received: {name}.shape={wrong}, hidden_dim=8" in str(error.value)
