import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.attention_block import Attention
from tests import references
from tests.layer_contract import run_layer_test


def sequences(*lengths, depth=8):
    rng = np.random.default_rng(sum(lengths))
    return [rng.normal(size=(2, length, depth)).astype("float32") for length in lengths]


@settings(deadline=None, max_examples=10)
@given(
    length=st.integers(1, 6),
    source_length=st.integers(1, 6),
    num_heads=st.sampled_from([1, 2, 4, 8]),
    masked=st.booleans(),
)
def test_equals_float64(length, source_length, num_heads, masked):
    targets, source = sequences(length, source_length)
    real = [[source_length], [(source_length + 1) // 2]]
    mask = np.arange(source_length) < real if masked else None
    layer = Attention(8, num_heads)
    y = ops.convert_to_numpy(layer(targets, source, source_mask=mask))
    expected = references.attention(layer, targets, source, mask)
    np.testing.assert_allclose(y, expected, atol=1e-5)


@settings(deadline=None, max_examples=6)
@given(length=st.integers(1, 6), masked=st.booleans())
def test_causal_equals_float64(length, masked):
    (x,) = sequences(length)
    mask = np.arange(length) < [[length], [(length + 1) // 2]] if masked else None
    layer = Attention(8, 2, causal=True)
    y = ops.convert_to_numpy(layer(x, x, source_mask=mask))
    np.testing.assert_allclose(y, references.attention(layer, x, x, mask), atol=1e-5)


def test_a_row_of_padding_attends_to_all_evenly():
    targets, source = sequences(3, 4)
    layer = Attention(8, 2)
    y = ops.convert_to_numpy(layer(targets, source, source_mask=np.zeros((2, 4), "bool")))
    value, out = (
        references.array(dense.kernel) for dense in (layer.value, layer.output_projection)
    )
    mean = source.mean(axis=1, keepdims=True) @ value @ out
    np.testing.assert_allclose(y, np.repeat(mean, 3, axis=1), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_keeps_the_contract_of_layers(causal):
    run_layer_test(
        Attention,
        init_kwargs={"hidden_dim": 8, "num_heads": 2, "causal": causal},
        input_shape={"targets_shape": (2, 5, 8), "source_shape": (2, 5, 8)},
        expected_output_shape=(2, 5, 8),
        expected_num_trainable_weights=4,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
        run_training_check=False,  # it passes all inputs as one argument
    )


@pytest.mark.parametrize("num_heads", [3, 16])
def test_refuses_heads(num_heads):
    message = f"`num_heads` must divide .* Received: num_heads={num_heads}, hidden_dim=8"
    with pytest.raises(ValueError, match=message):
        Attention(8, num_heads)


@pytest.mark.parametrize("num_heads", [0, 2.0, "2"])
def test_refuses_heads_that_are_no_number_of_them(num_heads):
    message = f"`num_heads` must be a positive integer. Received: num_heads={num_heads!r}"
    with pytest.raises(ValueError, match=message):
        Attention(8, num_heads)
