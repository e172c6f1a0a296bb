import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_multimodel import MultiModel, Task
from keras_multimodel.layers import BackboneModality, CategoryModality, TextModality

WIDTH = 8


def image_backbone():
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )


def text_backbone():
    return keras_hub.models.RobertaBackbone(
        vocabulary_size=11,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=12,
        dropout=0.0,
    )


def make_tasks(trainable=True):
    photo = BackboneModality(image_backbone(), WIDTH, trainable, name="photo")
    title = BackboneModality(text_backbone(), WIDTH, trainable, name="title")
    kinds = CategoryModality(3, WIDTH)
    return [Task("kind", {"photo": photo, "title": title}, kinds)]


def batch():
    rng = np.random.default_rng(0)
    titles = rng.integers(1, 11, (2, 6)).astype("int32")
    titles[1, 3:] = 0
    photos = rng.uniform(0, 1, (2, 16, 16, 3)).astype("float32")
    given = np.array([[True, True], [False, True]])
    return {"kind": {"photo": photos, "title": titles, "given": given}}


def small(tasks):
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    return MultiModel(tasks, WIDTH, moe=None, conv_block=None, **sizes)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = small(make_tasks(trainable=False))
    model.compile(run_eagerly=True)
    return model


def array(x):
    return ops.convert_to_numpy(x)


def test_projects_what_the_model_returns(model):
    for part, net in model.tasks["kind"].parts.items():
        x = batch()["kind"][part]
        given = {"token_ids": x, "padding_mask": x != 0} if part == "title" else x
        kernel, bias = map(array, net.projection.weights)
        expected = array(net.model(given, training=False)) @ kernel + bias
        np.testing.assert_allclose(array(net(x)), expected, atol=1e-5)


def test_a_frozen_backbone_stays(model):
    before = [array(w).copy() for n in model.tasks["kind"].parts.values() for w in n.model.weights]
    assert before
    model.train_on_batch(batch(), {"kind": np.array([0, 2])})
    after = [array(w) for n in model.tasks["kind"].parts.values() for w in n.model.weights]
    for one, two in zip(before, after):
        np.testing.assert_array_equal(one, two)
    assert len(small(make_tasks()).trainable_weights) > len(model.trainable_weights)


def test_saves_and_loads(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    expected = array(model(batch(), training=False)["kind"])
    np.testing.assert_allclose(array(loaded(batch(), training=False)["kind"]), expected, atol=1e-5)
    assert not loaded.tasks["kind"].parts["photo"].trainable_backbone


def test_generates(model):
    rows = [{"title": [3, 4, 5]}, {"photo": np.zeros((16, 16, 3), "float32")}]
    assert len(model.generate("kind", rows)) == 2


@pytest.mark.parametrize(
    "model, received",
    [
        (TextModality(5, 4), "model of type TextModality"),
        ("resnet_18_imagenet", "model of type str"),
        (keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), r"'out': \(None, 2\)"),
    ],
)
def test_refuses(model, received):
    with pytest.raises(ValueError, match=f"`model` must .*Received: .*{received}"):
        BackboneModality(model, WIDTH)


def test_a_name_of_a_preset_is_no_model():
    with pytest.raises(ValueError, match="built, see `keras_hub.models.Backbone.from_preset`"):
        BackboneModality("resnet_18_imagenet", WIDTH)
