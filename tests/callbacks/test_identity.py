import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel.callbacks import Resume
from keras_multimodel.callbacks.identity import describe, differences, listed
from keras_multimodel.data import Position, mix
from keras_multimodel.layers import CategoryModality, TextModality
from keras_multimodel.models.task import Task
from tests.models.small_models import build

WIDTH = 16


def make_model(names=("a", "b"), optimizer=None, weight=1.0):
    text = TextModality(11, WIDTH)
    tasks = [Task(name, text, CategoryModality(3, WIDTH), weight=weight) for name in names]
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "num_decoder_blocks": 0}
    model = build(tasks, moe=None, attention_block=None, **sizes)
    model.compile(optimizer or keras.optimizers.Adam(0.01), run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def fit(model, path, epochs, ids=3):
    """Trains one step an epoch."""
    position = Position()
    arrays = {"inputs": np.full((4, 3), ids, "int32"), "targets": np.array([0, 1, 2, 0])}
    examples = tf.data.Dataset.from_tensor_slices(arrays)
    train = mix({"a": examples, "b": examples}, batch_size=8, position=position)
    return model.fit(train, epochs=epochs, callbacks=[Resume(path, position)], verbose=0)


@pytest.fixture(scope="module")
def state(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    fit(model, path, epochs=1)
    return (path / "state.npz").read_bytes()


@pytest.fixture
def path(tmp_path, state):
    (tmp_path / "state.npz").write_bytes(state)
    return tmp_path


def test_the_same_training_resumes_without_a_warning(model, path, recwarn):
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    assert fit(model, path, epochs=2).epoch == [1]
    # The learning rate may have moved since training began, as by `ReduceLROnPlateau`.
    assert not [warning for warning in recwarn if "resumes with" in str(warning.message)]


@pytest.mark.parametrize(
    "optimizer, message",
    [
        (keras.optimizers.Adam(0.5), "learning_rate=0.5 instead of 0.0"),
        (keras.optimizers.Adam(0.01, beta_1=0.8), "optimizer.beta_1=0.8 instead of 0.9"),
        (keras.optimizers.Adam(0.01, clipnorm=1.0), "optimizer.clipnorm=1.0 instead of None"),
    ],
)
def test_other_settings_hold_with_a_warning(model, path, optimizer, message):
    model.compile(optimizer, run_eagerly=True)
    with pytest.warns(UserWarning, match=f"state.npz resumes with other settings .*{message}"):
        fit(model, path, epochs=2)
    rate = 0.5 if "learning_rate" in message else 0.01
    np.testing.assert_allclose(float(model.optimizer.learning_rate), rate, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["Adamax", "Nadam"])
def test_another_optimizer_is_refused(model, path, optimizer):
    """Adamax has variables of the same shapes as Adam, which mean something else."""
    model.compile(optimizer, run_eagerly=True)
    message = f"state of the same optimizer: .*Received: optimizer='{optimizer}' instead of .*Adam'"
    with pytest.raises(ValueError, match=message):
        fit(model, path, epochs=2)


def test_tasks_of_one_shape_that_are_swapped_are_refused(path):
    message = r"same tasks in the same order: .*Received: tasks=\['b', 'a'\] instead of .*'a', 'b'"
    with pytest.raises(ValueError, match=message):
        fit(make_model(["b", "a"]), path, epochs=2)


def test_other_examples_are_told(model, path):
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    with pytest.warns(UserWarning, match="other examples of task 'a'; other examples of task 'b'"):
        fit(model, path, epochs=2, ids=4)


def test_names_of_layers_are_no_settings(model):
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    assert describe(make_model()) == describe(model)
    changes = differences(describe(make_model(weight=0.5)), describe(model))
    assert any("weight" in change and "=0.5 instead of 1.0" in change for change in changes)


def test_a_long_list_is_cut():
    assert listed(["a", "b"]) == "a; b"
    assert listed([*"abcdefgh"]) == "a; b; c; d; e; and 3 more"


def test_the_class_within_a_loss_scale_optimizer_counts(model):
    inner = keras.optimizers.SGD(0.25)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), run_eagerly=True)
    described = describe(model)
    assert described["optimizer"] == "LossScaleOptimizer(SGD)"
    assert described["learning_rate"] == 0.25
