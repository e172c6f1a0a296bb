"""Encoder, mixer and decoder: what they are made of, and in which order they call it."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.layers import AttentionBlock, ConvBlock, FeedForward, MoELayer, TimingSignal
from keras_multimodel.models.decoder import Decoder
from keras_multimodel.models.encoder import Encoder
from keras_multimodel.models.mixer import Mixer
from tests import references
from tests.catalog import WIDTH, sequences
from tests.models.small_models import set_weights


def conv(padding="causal"):
    return ConvBlock(WIDTH, (3,), padding=padding, dropout=0.0)


def attention():
    return AttentionBlock(WIDTH, 2)


def numpy(x):
    return ops.convert_to_numpy(x)


def feed_forward(layer, x):
    hidden = references.relu(x @ references.array(layer.dense_in.kernel))
    return references.norm(layer.norm, x + hidden @ references.array(layer.dense_out.kernel))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_an_encoder_has_its_experts_in_the_middle(count):
    blocks = [conv("same") for _ in range(count)]
    encoder = Encoder(blocks, experts=FeedForward(WIDTH), timing=TimingSignal())
    x, mask, *_ = sequences(2, 5, 1)
    (y,) = encoder([x], [mask])
    expected = x + references.timing(5, WIDTH)
    for block in blocks[: count // 2]:
        expected = references.conv_block(block, expected, mask)
    expected = feed_forward(encoder.experts, expected)
    for block in blocks[count // 2 :]:
        expected = references.conv_block(block, expected, mask)
    np.testing.assert_allclose(numpy(y), expected, atol=1e-4)


@pytest.mark.parametrize("router", ["top_k", "expert_choice"])
def test_the_experts_of_one_sequence_depend_on_no_other(router):
    """Where experts choose tokens they must do so in each example, not in all of a step."""
    encoder = Encoder([], experts=MoELayer(WIDTH, 4, 1, router=router))
    x, mask, *_ = sequences(3, 6, 1)
    others = np.random.default_rng(1).normal(size=(2, 9, WIDTH)).astype("float32")
    encoder([x], [mask])
    set_weights(encoder)
    together = encoder([x, others], [mask, np.ones((2, 9), bool)])
    (alone,) = encoder([x[:1]], [mask[:1]])
    np.testing.assert_allclose(numpy(together[0])[:1], numpy(alone), atol=1e-5)


def test_an_encoder_without_anything_gives_back_its_inputs():
    x, mask, *_ = sequences(2, 5, 1)
    np.testing.assert_array_equal(numpy(Encoder([])([x], [mask])[0]), x)


def test_a_decoder_has_its_experts_in_the_middle():
    blocks = [[conv(), attention()] for _ in range(2)]
    decoder = Decoder(blocks, experts=FeedForward(WIDTH))
    x, mask, source, source_mask = sequences(2, 5, 3)
    source_mask[1, 1:] = False
    (y,) = decoder([x], [source], [mask], [source_mask])
    expected = x
    for i, (block, attend) in enumerate(blocks):
        if i == 1:
            expected = feed_forward(decoder.experts, expected)
        expected = references.conv_block(block, expected, mask)
        expected = references.attention_block(attend, expected, source, mask, source_mask)
    np.testing.assert_allclose(numpy(y), expected, atol=1e-4)


def test_a_mixer_attends_and_then_convolves():
    mixer = Mixer(attention(), [conv()])
    x, mask, source, source_mask = sequences(2, 5, 3)
    (y,) = mixer([x], [source], [mask], [source_mask])
    expected = references.attention_block(mixer.attention, x, source, mask, source_mask)
    expected = references.conv_block(mixer.blocks[0], expected, mask)
    np.testing.assert_allclose(numpy(y), expected, atol=1e-4)
    assert mixer.join_norm is None


@pytest.mark.parametrize("source_length", [1, 3, 8])
def test_a_mixer_without_attention_adds_the_source(source_length):
    mixer = Mixer(None, [conv()])
    x, mask, source, source_mask = sequences(2, 5, source_length)
    source_mask[1, source_length // 2 + 1 :] = False
    (y,) = mixer([x], [source], [mask], [source_mask])
    source = source * source_mask[..., None]
    mean = source.sum(axis=1, keepdims=True) / source_mask.sum(axis=1)[:, None, None]
    aligned = np.zeros_like(x)
    aligned[:, :source_length] = source[:, :5]
    expected = references.norm(mixer.join_norm, x + aligned + mean)
    expected = references.conv_block(mixer.blocks[0], expected, mask)
    np.testing.assert_allclose(numpy(y), expected, atol=1e-4)


def test_experts_see_the_tokens_of_all_sequences_at_once():
    """The balancing loss of two sequences together is not the sum of two losses."""
    moe = MoELayer(WIDTH, 4, 2)
    encoder = Encoder([], experts=moe)
    a, b = sequences(2, 5, 1)[:2], sequences(1, 3, 1, seed=1)[:2]
    encoder([a[0]], [a[1]])
    set_weights(encoder)
    moe.router.noise_scale = 0.0
    together = encoder([a[0], b[0]], [a[1], b[1]], training=True)
    assert len(encoder.losses) == 1
    loss = float(encoder.losses[0])
    joined = np.concatenate([a[0].reshape(1, -1, WIDTH), b[0].reshape(1, -1, WIDTH)], axis=1)
    y = numpy(encoder([joined], [np.ones((1, 13), "bool")], training=True)[0])
    assert loss == pytest.approx(float(encoder.losses[0]), rel=1e-5)
    np.testing.assert_allclose(numpy(together[0]).reshape(-1, WIDTH), y[0, :10], atol=1e-5)
    np.testing.assert_allclose(numpy(together[1]).reshape(-1, WIDTH), y[0, 10:], atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Encoder([conv("same")], MoELayer(WIDTH, 4, 2), TimingSignal(), name="e"),
        lambda: Encoder([], name="e"),
        lambda: Mixer(attention(), [conv()], name="m"),
        lambda: Mixer(None, [conv()], name="m"),
        lambda: Decoder([[conv(), attention()], []], MoELayer(WIDTH, 4, 2), name="d"),
    ],
)
def test_comes_back_from_its_config_and_from_a_file(layer, tmp_path):
    """`run_layer_test` calls with one argument; these take two and more."""
    layer = layer()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    arguments = [[value] for value in sequences(2, 5, 3)]
    if isinstance(layer, (Mixer, Decoder)):
        arguments = [arguments[0], arguments[2], arguments[1], arguments[3]]
    else:
        arguments = arguments[:2]
    symbolic = [
        [keras.Input(value.shape[1:], dtype=value.dtype.name) for value in values]
        for values in arguments
    ]
    model = keras.Model(symbolic, layer(*symbolic))
    set_weights(model)
    expected = numpy(model(arguments)[0])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(loaded(arguments)[0]), expected, atol=1e-6)
