"""Keras' callbacks that watch a task's measure know which way it improves."""

import keras
import pytest

import keras_multimodel as kmm
from keras_multimodel.models.training import direction_of
from tests.models.small_models import build, make_batch, make_tasks


@pytest.fixture(scope="module", params=[("copy", "topic"), ("topic",)], ids=["two", "one"])
def fitted(request, tmp_path_factory):
    """Returns callbacks after two epochs: kind -> measure -> callback. One fit for all of them."""
    tasks = request.param
    model = build(make_tasks(*tasks), moe=None, num_encoder_blocks=1)
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    prefix = "topic_" if len(tasks) > 1 else ""
    watched = [f"{prefix}{m}" for m in ("loss", "accuracy", "log_perplexity", "top_5_accuracy")]
    folder = tmp_path_factory.mktemp("kept")
    found = {
        "stop": {name: keras.callbacks.EarlyStopping(f"val_{name}") for name in watched},
        "rate": {name: keras.callbacks.ReduceLROnPlateau(name) for name in watched},
        "best": {
            name: keras.callbacks.ModelCheckpoint(
                folder / f"{name}.weights.h5", name, save_best_only=True, save_weights_only=True
            )
            for name in watched[1:3]
        },
    }
    batch = make_batch(model.tasks.values(), (3, 2))
    callbacks = [callback for by_name in found.values() for callback in by_name.values()]
    # As `fit` takes them too: nested, or a list of Keras' own.
    callbacks.append(keras.callbacks.TensorBoard(folder / "board", write_graph=False))
    model.fit(*batch, epochs=2, validation_data=batch, callbacks=[callbacks], verbose=0)
    return {**found, "board": folder / "board"}


@pytest.mark.parametrize("kind", ["stop", "rate", "best"])
def test_the_mode_is_inferred(fitted, kind):
    for name, callback in fitted[kind].items():
        up = name.endswith("accuracy")
        assert (callback.monitor_op(2.0, 1.0), callback.monitor_op(1.0, 2.0)) == (up, not up), name


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it writes with TensorFlow")
def test_tensorboard_has_the_measures_of_each_task(fitted):
    import tensorflow as tf

    for split in ("train", "validation"):
        (file,) = (fitted["board"] / split).glob("*")
        events = tf.compat.v1.train.summary_iterator(str(file))
        tags = {value.tag for event in events for value in event.summary.value}
        for name in fitted["rate"]:
            assert f"epoch_{name}" in tags


def test_a_mode_of_ones_own_is_kept_and_an_unknown_measure_is_keras_error():
    model = build(make_tasks("copy", "topic"), moe=None, num_encoder_blocks=1)
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    batch = make_batch(model.tasks.values(), (3, 2))
    given = keras.callbacks.EarlyStopping("topic_accuracy", mode="min")
    model.fit(*batch, callbacks=keras.callbacks.CallbackList([given], True, model=model), verbose=0)
    assert given.mode == "min"
    with pytest.raises(ValueError, match="monitor=copy_bleu"):
        model.fit(*batch, callbacks=keras.callbacks.EarlyStopping("copy_bleu"), verbose=0)


def test_directions_of_keys_that_end_in_several_metrics():
    model = build(make_tasks("topic", "copy"), moe=None, num_encoder_blocks=1)
    # Of these, one improves upward and one downward, and the shorter name ends the longer one.
    model.compile(
        "sgd", metrics={"topic": [kmm.metrics.LogPerplexity("rank_accuracy"), "accuracy"]}
    )
    model.make_variables()
    assert direction_of(model, "val_topic_rank_accuracy") == "down"
    assert direction_of(model, "topic_accuracy") == "up"
    assert direction_of(model, "val_loss") == "down"
    assert direction_of(model, "learning_rate") is None
