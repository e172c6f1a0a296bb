"""Property 4: step by step with caches equals the whole sequence at once."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.generation.caches import reorder_cache
from keras_multimodel.layers import AttentionBlock, ConvBlock, TimingSignal
from keras_multimodel.layers.attention_block import Attention
from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.stepping import SteppingBlock
from keras_multimodel.models.decoder import Decoder
from keras_multimodel.models.mixer import Mixer
from tests.models.small_models import set_weights

WIDTH = 8


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def stepped(block, x, source=None, source_mask=None):
    """Calls the block position by position."""
    batch, length, _ = x.shape
    x = ops.convert_to_tensor(x)
    if source is not None:
        source, source_mask = ops.convert_to_tensor(source), ops.convert_to_tensor(source_mask)
    cache = block.initial_cache(batch, length, source=source, source_mask=source_mask)
    outputs = []
    for t in range(length):
        index = ops.convert_to_tensor(np.array(t, "int32"))
        y, cache = block.step(x[:, t], cache, index)
        outputs.append(ops.convert_to_numpy(y))
    return np.stack(outputs, axis=1)


def check(block, x, whole, **source):
    assert isinstance(block, SteppingBlock)
    np.testing.assert_allclose(
        stepped(block, x, **source), ops.convert_to_numpy(whole), atol=1e-4, rtol=1e-4
    )


@settings(deadline=None, max_examples=6)
@given(batch=st.integers(1, 3), length=st.integers(1, 12), data=st.data())
def test_conv_block(batch, length, data):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    rates = data.draw(st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes)))
    x = normal(batch, length, WIDTH)
    block = ConvBlock(WIDTH, sizes, rates, padding="causal")
    block.build(x.shape)
    set_weights(block)
    check(block, x, block(x))


@settings(deadline=None, max_examples=5)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    source_length=st.integers(1, 5),
    heads=st.sampled_from([1, 2, 4]),
)
def test_attention_block(batch, length, source_length, heads):
    x, source = normal(batch, length, WIDTH), normal(batch, source_length, WIDTH, seed=1)
    mask = np.arange(source_length) < np.arange(1, batch + 1)[:, None]
    block = AttentionBlock(WIDTH, heads)
    block.build(x.shape, source.shape)
    set_weights(block)
    whole = block(x, source=source, source_mask=mask)
    check(block, x, whole, source=source, source_mask=mask)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a switch of JAX")
def test_with_64_bits_of_jax():
    """There, integers of Python are int64, and JAX refuses them beside int32 in a slice."""
    import jax

    x = normal(2, 7, WIDTH).astype("float64")
    with jax.experimental.enable_x64():
        for block in (
            ConvBlock(WIDTH, (3, 2), (2, 3), padding="causal", dtype="float64"),
            AttentionBlock(WIDTH, 2, dtype="float64"),
        ):
            block.build(x.shape)
            set_weights(block)
            check(block, x, block(x))


def test_attention_block_without_a_source():
    x = normal(2, 5, WIDTH)
    block = AttentionBlock(WIDTH, 2)
    block.build(x.shape)
    set_weights(block)
    check(block, x, block(x))


def test_a_source_without_any_real_position():
    x, source = normal(1, 3, WIDTH), normal(1, 4, WIDTH, seed=1)
    attention = Attention(WIDTH, 2)
    attention.build(x.shape, source.shape)
    mask = np.zeros((1, 4), "bool")
    whole = attention(x, source, source_mask=mask)
    check(attention, x, whole, source=source, source_mask=mask)


def test_mixed_precision():
    x, source = normal(2, 5, WIDTH), normal(2, 4, WIDTH, seed=1)
    block = AttentionBlock(WIDTH, 2, dtype="mixed_bfloat16")
    block.build(x.shape, source.shape)
    set_weights(block)
    x, source = (ops.cast(values, "bfloat16") for values in (x, source))
    mask = ops.ones((2, 4), "bool")
    cache = block.initial_cache(2, 5, source=source, source_mask=mask)
    whole = block(x, source=source, source_mask=mask)
    for t in range(5):
        y, cache = block.step(x[:, t], cache, ops.convert_to_tensor(t))
        assert "bfloat16" in str(y.dtype)
        found, expected = (ops.convert_to_numpy(ops.cast(v, "float32")) for v in (y, whole[:, t]))
        np.testing.assert_allclose(found, expected, atol=0.15)


def test_timing():
    x = normal(2, 5, WIDTH)
    timing = TimingSignal()
    check(timing, x, timing(x))


@pytest.mark.parametrize("attention", [True, False])
def test_mixer(attention):
    x, source = normal(2, 6, WIDTH), normal(2, 4, WIDTH, seed=1)
    mask = np.array([[True] * 4, [True, True, False, False]])
    block = AttentionBlock(WIDTH, 2) if attention else None
    mixer = Mixer(block, [ConvBlock(WIDTH, (3,), padding="causal", dropout=0.0)])
    mixer.build([x.shape])
    set_weights(mixer)
    (whole,) = mixer([x], [source], [np.ones((2, 6), "bool")], [mask])
    check(mixer, x, whole, source=source, source_mask=mask)


def test_decoder():
    x, source = normal(2, 6, WIDTH), normal(2, 4, WIDTH, seed=1)
    mask = np.ones((2, 4), "bool")
    norm = LayerNorm()
    norm.position_wise = True
    pairs = [[ConvBlock(WIDTH, (3, 3), padding="causal"), AttentionBlock(WIDTH, 2)] for _ in "ab"]
    decoder = Decoder(pairs, experts=norm)
    decoder.build([x.shape])
    set_weights(decoder)
    (whole,) = decoder([x], [source], [np.ones((2, 6), "bool")], [mask])
    check(decoder, x, whole, source=source, source_mask=mask)


@pytest.mark.parametrize("block", [AttentionBlock(WIDTH, 2), ConvBlock(WIDTH, padding="causal")])
def test_a_reordered_cache_goes_on_as_the_other_row(block):
    x = normal(2, 7, WIDTH)
    block.build(x.shape)
    set_weights(block)
    cache = block.initial_cache(2, 7)
    for t in range(6):
        _, cache = block.step(ops.convert_to_tensor(x[:, t]), cache, ops.convert_to_tensor(t))
    cache = reorder_cache(block, cache, ops.convert_to_tensor(np.array([1, 1], "int32")))
    last = ops.convert_to_tensor(x[[1, 1], 6])
    y, _ = block.step(last, cache, ops.convert_to_tensor(6))
    whole = ops.convert_to_numpy(block(x))[1, 6]
    np.testing.assert_allclose(ops.convert_to_numpy(y), np.stack([whole] * 2), atol=1e-4)


def test_what_sees_later_inputs_cannot_step():
    with pytest.raises(ValueError, match="`padding` must be .* Received: padding=same"):
        ConvStep(WIDTH, 3).initial_cache(1, 4)
    with pytest.raises(ValueError, match="`causal` must be True .* Received: causal=False"):
        Attention(WIDTH, 2).initial_cache(1, 4)
