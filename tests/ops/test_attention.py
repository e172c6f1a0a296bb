import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.ops.attention import attention, attention_weights


def reference(queries, keys, values, mask, causal):
    """In float64, from the definition."""
    scores = np.einsum("btnh,bsnh->bnts", queries, keys) / np.sqrt(queries.shape[-1])
    visible = np.broadcast_to(mask[:, None, None, :], scores.shape)
    if causal:
        visible = visible & np.tri(*scores.shape[2:], dtype=bool)
    scores = np.where(visible, scores, -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), values)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, 5) for _ in range(5))),
    causal=st.booleans(),
    seed=st.integers(),
)
def test_equals_the_definition(sizes, causal, seed):
    draw = np.random.default_rng(abs(seed))
    batch, targets, sources, heads, channels = sizes
    sources = targets if causal else sources
    shapes = [(batch, n, heads, channels) for n in (targets, sources, sources)]
    queries, keys, values = (draw.normal(size=shape).astype("float32") for shape in shapes)
    # Some rows hide everything: their queries then attend evenly. Not where causal: see below.
    mask = draw.random((batch, sources)) < 0.6
    mask[:, 0] |= causal
    found = ops.convert_to_numpy(
        attention(queries, keys, values, ops.convert_to_tensor(mask), causal)
    )
    expected = reference(*(x.astype("float64") for x in (queries, keys, values)), mask, causal)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_a_row_of_padding_is_finite(causal):
    x = np.ones((2, 3, 2, 4), "float32")
    mask = ops.convert_to_tensor(np.zeros((2, 3), bool))
    assert np.isfinite(ops.convert_to_numpy(attention(x, x, x, mask, causal))).all()


def test_half_precision_keeps_its_dtype_and_sums_in_float32():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1, 300, 1, 8)).astype("float32")
    half = ops.cast(x, "bfloat16")
    found = attention(half, half, half)
    rounded = ops.convert_to_numpy(ops.cast(half, "float32")).astype("float64")
    expected = reference(rounded, rounded, rounded, np.ones((1, 300), bool), False)
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.cast(found, "float32")), expected, atol=0.03
    )
    assert found.dtype == half.dtype


@pytest.mark.parametrize("causal", [False, True])
def test_weights_sum_to_1_and_are_those_of_the_definition(causal):
    draw = np.random.default_rng(1)
    queries, keys = draw.normal(size=(2, 2, 5, 3, 4)).astype("float32")
    mask = np.arange(5) < [[4], [2]]
    weights = ops.convert_to_numpy(
        attention_weights(queries, keys, ops.convert_to_tensor(mask), causal)
    )
    # With the identity as values, what is found is the weights: `(B, T, N, S)`.
    values = np.broadcast_to(np.eye(5)[None, :, None], (2, 5, 3, 5))
    expected = reference(queries.astype("float64"), keys.astype("float64"), values, mask, causal)
    np.testing.assert_allclose(weights, expected.transpose(0, 2, 1, 3), atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    assert not weights[1, ..., 2:].any()
