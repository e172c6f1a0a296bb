"""What holds for every layer that is made of other layers."""

import gc

import keras
import numpy as np
import pytest

from keras_multimodel import _keras_compat
from keras_multimodel.layers import (
    AttentionBlock,
    AudioModality,
    CategoryModality,
    ConvBlock,
    FeedForward,
    ImageModality,
    LabelsModality,
    ModalityNet,
    MoELayer,
    NumberModality,
    SeriesModality,
    TextModality,
    TopKRouter,
)
from keras_multimodel.layers.sublayers import clone_initializer
from keras_multimodel.tensor2tensor.modalities import AudioModality2017, ClassModality2017
from tests.references import array

WIDTH = 16


@keras.saving.register_keras_serializable(package="tests")
class VectorModality(ModalityNet):
    """A net of a user's own, with a sublayer."""

    example_shape = (None, 4)

    def build(self, input_shape):
        self.dense = keras.layers.Dense(self.hidden_dim, dtype=self.dtype_policy, name="dense")
        self.dense.build(input_shape)

    def encode(self, inputs, mask=None):
        return self.dense(inputs)


def attention(x):
    return AttentionBlock(WIDTH, 2)(x, source=x[:, :3])


def both_directions(x):
    """Decodes first: the order in which directions are used does not matter."""
    net = CategoryModality(7, WIDTH)
    logits = net(x, reverse=True)
    return net(keras.ops.argmax(logits, axis=-1)) + keras.ops.mean(logits)


# The layer under test, as a function of its input; the shape of the input; its dtype.
CALLS = {
    "attention_block": (attention, (5, WIDTH), "float32"),
    "attention_block_without_source": (
        lambda x: AttentionBlock(WIDTH, 2)(x),
        (5, WIDTH),
        "float32",
    ),
    "audio": (
        lambda x: AudioModality(WIDTH, num_bins=6, num_blocks=2, stem_channels=4)(x),
        (8, 6),
        "float32",
    ),
    "audio_2017": (lambda x: AudioModality2017(WIDTH, compression=1)(x), (8, 4, 1), "float32"),
    "category_decodes": (
        lambda x: CategoryModality(7, WIDTH)(x, reverse=True),
        (5, WIDTH),
        "float32",
    ),
    "category_encodes": (lambda x: CategoryModality(7, WIDTH)(x), (), "int32"),
    "category_goes_both_ways": (both_directions, (5, WIDTH), "float32"),
    "class_2017": (lambda x: ClassModality2017(7, WIDTH)(x, reverse=True), (5, WIDTH), "float32"),
    "conv_block": (lambda x: ConvBlock(WIDTH)(x), (5, WIDTH), "float32"),
    "experts": (lambda x: MoELayer(WIDTH, 4, router=TopKRouter(4, 2))(x), (5, WIDTH), "float32"),
    "feed_forward": (lambda x: FeedForward(WIDTH, 12)(x), (5, WIDTH), "float32"),
    "image": (lambda x: ImageModality(WIDTH, (8, 8, 1), num_blocks=1)(x), (8, 8, 1), "float32"),
    "labels_write": (lambda x: LabelsModality(3, WIDTH)(x, reverse=True), (5, WIDTH), "float32"),
    "numbers_write": (lambda x: NumberModality(WIDTH, 2)(x, reverse=True), (5, WIDTH), "float32"),
    "series": (lambda x: SeriesModality(WIDTH, 2)(x), (5, 4), "float32"),
    "of_a_user": (lambda x: VectorModality(WIDTH)(x), (5, 4), "float32"),
    "text": (lambda x: TextModality(7, WIDTH)(x), (5,), "int32"),
}
every_layer = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(autouse=True, scope="module")
def what_earlier_tests_left():
    """Leaves it out of the garbage collections that Keras runs for each kernel it quantizes."""
    gc.collect()
    gc.freeze()


def make_model(name):
    call, shape, dtype = CALLS[name]
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, call(inputs))


def examples(name, rows=3):
    _, shape, dtype = CALLS[name]
    draw = np.random.default_rng(0)
    if dtype == "int32":
        return draw.integers(1, 7, (rows, *shape)).astype(dtype)
    return draw.normal(size=(rows, *shape)).astype(dtype)


def save_and_load(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)


def own_layers(model):
    """Returns all layers within a model, without those of the graph."""
    return _keras_compat.all_layers(model)[1:]


def assert_same(model, loaded, x):
    expected = array(model(x))
    np.testing.assert_allclose(array(loaded(x)), expected, atol=1e-5)
    assert np.abs(expected).max() > 0


@every_layer
def test_no_sublayer_is_made_and_not_built(name):
    assert [layer.name for layer in own_layers(make_model(name)) if not layer.built] == []


@every_layer
def test_an_int8_model_saves_and_loads(name, tmp_path):
    model = make_model(name)
    model.quantize("int8")
    if name == "experts":  # which have sublayers: Keras calls layers without any only
        model.layers[-1].quantize("int8")
    modes = sorted(str(layer.quantization_mode) for layer in own_layers(model))
    assert "int8" in modes
    loaded = save_and_load(model, tmp_path)
    assert sorted(str(layer.quantization_mode) for layer in own_layers(loaded)) == modes
    assert_same(model, loaded, examples(name))


@every_layer
def test_a_model_with_lora_saves_and_loads(name, tmp_path):
    model = make_model(name)
    layers = [layer for layer in own_layers(model) if hasattr(layer, "enable_lora")]
    for layer in layers:
        layer.enable_lora(2)
    draw = np.random.default_rng(1)
    for weight in model.weights:
        if "lora" in weight.name:
            weight.assign(0.1 * draw.normal(size=weight.shape))
    loaded = save_and_load(model, tmp_path)
    found = [layer for layer in own_layers(loaded) if getattr(layer, "lora_enabled", False)]
    assert layers and len(found) == len(layers)
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    assert_same(model, loaded, examples(name))


@pytest.mark.parametrize("mode", ["int8 first", "lora first"])
def test_int8_and_lora_together(mode, tmp_path):
    model = make_model("feed_forward")
    dense = model.layers[-1].dense_in
    if mode == "int8 first":
        model.quantize("int8")
    dense.enable_lora(2)
    if mode == "lora first":
        model.quantize("int8")
    dense.lora_kernel_b.assign(np.full(dense.lora_kernel_b.shape, 0.1))
    loaded = save_and_load(model, tmp_path)
    again = loaded.layers[-1].dense_in
    assert again.lora_enabled and again.quantization_mode == "int8"
    np.testing.assert_allclose(
        array(loaded(examples("feed_forward"))), array(model(examples("feed_forward"))), atol=1e-5
    )


@pytest.mark.parametrize(
    "name, freeze",
    [
        ("feed_forward", lambda layer: [layer.dense_in]),
        ("experts", lambda layer: [layer.router]),
        ("category_decodes", lambda layer: [layer.exit_flow.head]),
        ("audio", lambda layer: [layer.blocks[0], layer.merge_norm]),
        ("attention_block", lambda layer: [layer.steps[0].pointwise, layer.source_attention.key]),
    ],
)
def test_frozen_sublayers_come_back_frozen(name, freeze, tmp_path):
    model = make_model(name)
    for sublayer in freeze(model.layers[-1]):
        sublayer.trainable = False
    loaded = save_and_load(model, tmp_path)
    assert [layer.trainable for layer in freeze(loaded.layers[-1])] == [
        False for _ in freeze(model.layers[-1])
    ]
    frozen = [[w.name for w in m.weights if not w.trainable] for m in (model, loaded)]
    assert frozen[0] == frozen[1] != []
    assert_same(model, loaded, examples(name))


def test_a_thawed_layer_within_a_frozen_one_stays_so(tmp_path):
    model = make_model("audio")
    block = model.layers[-1].blocks[0]
    block.trainable = False
    block.norm_0.trainable = True
    again = save_and_load(model, tmp_path).layers[-1].blocks[0]
    assert (again.trainable, again.conv_0.trainable, again.norm_0.trainable) == (False, False, True)


def test_layers_as_they_were_made_have_no_state_to_save():
    layer = FeedForward(8)
    assert layer.get_build_config() is None
    layer.build((None, None, 8))
    assert layer.get_build_config() == {"input_shape": (None, None, 8)}


def test_clones_of_an_initializer_start_different():
    initializer = keras.initializers.RandomNormal()
    one, two = (array(clone_initializer(initializer)((3,))) for _ in range(2))
    assert np.abs(one - two).max() > 0
    seeded = keras.initializers.RandomNormal(seed=1)
    np.testing.assert_array_equal(*(array(clone_initializer(seeded)((3,))) for _ in range(2)))
    assert clone_initializer("zeros") == "zeros"
