"""Each public layer in models of plain Keras: fit, save, load. On every backend.

`tests/test_other_backends.py` runs this file on JAX and torch.
"""

import inspect

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel import layers

WIDTH = 8
RNG = np.random.default_rng(0)
SEQUENCES = RNG.normal(size=(3, 6, WIDTH)).astype("float32")
IDS = RNG.integers(1, 9, (3, 6)).astype("int32")
IMAGES = RNG.integers(0, 256, (3, 8, 8, 3)).astype("uint8")
SOUND = RNG.normal(size=(3, 64)).astype("float32")
LABELS = np.array([0, 2, 1], "int32")
NUMBERS = RNG.normal(size=(3, 3)).astype("float32")


def backbone():
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])


# Layer -> how to make it, and what it reads.
LAYERS = {
    "AttentionBlock": (lambda: layers.AttentionBlock(WIDTH, num_heads=2), SEQUENCES),
    "AudioModality": (
        lambda: layers.AudioModality(WIDTH, num_blocks=1, channels=(WIDTH,), stem_channels=4),
        SOUND,
    ),
    "BackboneModality": (lambda: layers.BackboneModality(backbone(), WIDTH), IMAGES),
    "CategoryModality": (lambda: layers.CategoryModality(3, WIDTH), LABELS),
    "ConvBlock": (lambda: layers.ConvBlock(WIDTH, (3, 3), (1, 1), dropout=0.0), SEQUENCES),
    "FeedForward": (lambda: layers.FeedForward(WIDTH, 12), SEQUENCES),
    "ImageModality": (lambda: layers.ImageModality(WIDTH, (8, 8, 3), num_blocks=1), IMAGES),
    "LabelsModality": (lambda: layers.LabelsModality(3, WIDTH), (NUMBERS > 0).astype("float32")),
    "MoELayer": (lambda: layers.MoELayer(WIDTH, num_experts=4, top_k=2), SEQUENCES),
    "NumberModality": (lambda: layers.NumberModality(WIDTH, 3), NUMBERS),
    "SeriesModality": (lambda: layers.SeriesModality(WIDTH, WIDTH // 2), SEQUENCES),
    "TextModality": (lambda: layers.TextModality(9, WIDTH), IDS),
    "TimingSignal": (lambda: layers.TimingSignal(), SEQUENCES),
}
# Bases of classes of one's own, and routers, which stand within a `MoELayer`.
NOT_ALONE = {"ModalityNet", "Router", "Routing", "SteppingBlock"} | {
    name for name in vars(layers) if name.endswith("Router")
}


def test_every_layer_is_here():
    classes = {name for name, value in vars(layers).items() if inspect.isclass(value)}
    assert classes - NOT_ALONE == set(LAYERS)


def sequential(layer, x):
    outputs = [keras.layers.Flatten(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype.name), layer, *outputs])


def functional(layer, x):
    inputs = keras.Input(x.shape[1:], dtype=x.dtype.name)
    y = keras.layers.Dense(1)(keras.layers.Flatten()(layer(inputs)))
    return keras.Model(inputs, y)


@pytest.mark.parametrize("kind", [sequential, functional])
@pytest.mark.parametrize("name", LAYERS)
def test_fit_save_load(name, kind, tmp_path):
    make, x = LAYERS[name]
    fit_save_load(kind(make(), x), x, tmp_path)


def fit_save_load(model, x, folder):
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    before = [np.array(w) for w in model.trainable_weights]
    model.fit(x, np.ones((3, 1), "float32"), batch_size=3, verbose=0)
    assert any(np.any(np.array(w) != b) for w, b in zip(model.trainable_weights, before))
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    outputs = [keras.ops.convert_to_numpy(m(x, training=False)) for m in (model, loaded)]
    np.testing.assert_allclose(*outputs, atol=1e-6)


def test_two_inputs_and_back_to_logits(tmp_path):
    """What a `Sequential` cannot hold: a source, and a net in both directions."""
    text, classes = layers.TextModality(9, WIDTH), layers.CategoryModality(3, WIDTH)
    source, ids = keras.Input((6, WIDTH)), keras.Input((6,), dtype="int32")
    x = layers.AttentionBlock(WIDTH, num_heads=2)(text(ids), source=source)
    logits = keras.layers.Flatten()(text(x, reverse=True))
    outputs = keras.layers.Concatenate()([logits, classes(x, reverse=True)])
    model = keras.Model([source, ids], keras.layers.Dense(1)(outputs))
    fit_save_load(model, [SEQUENCES, IDS], tmp_path)


def test_a_model_of_ones_own_of_these_layers(tmp_path):
    """Words in, a class out, by masks that Keras passes from layer to layer."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.TextModality(9, WIDTH),
            layers.TimingSignal(),
            layers.ConvBlock(WIDTH, (3, 3), (1, 1), dropout=0.0),
            layers.MoELayer(WIDTH, num_experts=2, top_k=1, router="switch"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    fit_save_load(model, IDS, tmp_path)
    padded = np.pad(IDS, [(0, 0), (0, 2)])
    one, other = (keras.ops.convert_to_numpy(model(x, training=False)) for x in (IDS, padded))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert kmm.layers.MoELayer in map(type, model.layers)
