"""A step may train one task: the others have no rows in it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel.layers import MoELayer
from tests.models.small_models import HIDDEN_DIM, build, make_batch, make_tasks

NETS = {  # the task's own layers, by the start of the paths of their weights
    "copy": {"text", "copy_command"},
    "shorten": {"text", "other", "shorten_command"},
    "digits": {"image", "digit"},
    "topic": {"text", "topics"},
    "speech": {"audio", "text", "speech_command"},
}
BODY = {"encoder", "mixer", "decoder"}


def only(task, batch):
    """Returns the batch with no rows of the other tasks, whose sequences have length 1."""

    def cut(array):
        return array[:0] if array.ndim == 4 else array[:0, :1] if array.ndim == 2 else array[:0]

    def of(name, value):
        if name == task:
            return value
        if isinstance(value, dict):
            return {key: cut(array) for key, array in value.items()}
        return cut(value)

    return tuple({name: of(name, value) for name, value in part.items()} for part in batch)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)  # whichever tests ran before
    model = build(moe=MoELayer(HIDDEN_DIM, num_experts=4, top_k=2))
    model.compile("sgd")
    return model


@pytest.fixture(scope="module")
def batch():
    return make_batch(make_tasks())


def loss_and_gradients(model, x, y):
    with tf.GradientTape() as tape:
        outputs = model(x, training=False)
        y = {name: tf.constant(value) for name, value in y.items()}
        loss = model.compute_loss(x=None, y=y, y_pred=outputs)
    gradients = tape.gradient(loss, model.trainable_variables)
    return float(loss), [None if g is None else tf.convert_to_tensor(g).numpy() for g in gradients]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.GradientTape")
@pytest.mark.parametrize("task", NETS)
def test_a_step_of_one_task_trains_its_nets_alone(model, batch, task):
    x, y = only(task, batch)
    loss, gradients = loss_and_gradients(model, x, y)
    assert np.isfinite(loss) and loss > 0
    touched = set()
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        if gradient is not None:
            assert np.isfinite(gradient).all(), variable.path
            if gradient.any():
                touched.add(variable.path.split("/")[0])
    assert touched - BODY == NETS[task]
    single = model.task_model(task)
    alone = single({task: x[task]}, training=False)[task]
    together = model(x, training=False)
    np.testing.assert_allclose(together[task], alone, atol=1e-5)
    for name in set(NETS) - {task}:
        assert together[name].shape[0] == 0


@pytest.mark.slow
def test_logs_tell_of_the_rows_that_were_there(model, batch):
    def steps(*tasks):
        def generate():
            for task in tasks:
                yield only(task, batch)

        specs = [
            tf.nest.map_structure(
                lambda array: tf.TensorSpec((None,) * array.ndim, array.dtype), part
            )
            for part in batch
        ]
        dataset = tf.data.Dataset.from_generator(generate, output_signature=tuple(specs))
        return dataset.apply(tf.data.experimental.assert_cardinality(len(tasks)))

    def logs(*tasks):
        return model.evaluate(steps(*tasks), return_dict=True, verbose=0)

    speech, digits = logs("speech"), logs("digits")
    both = logs("speech", "digits", "digits", "speech")
    for name in ("speech_log_perplexity", "speech_accuracy"):
        assert both[name] == pytest.approx(speech[name], rel=1e-5) and speech[name] > 0
        assert digits[name] == 0
    # Of the losses the mean over steps, so that they add up to the loss. Where shapes are known
    # while it runs, Keras weighs the steps of a task's loss by their rows.
    share = 0.5 if keras.backend.backend() == "tensorflow" else 1.0
    assert both["speech_loss"] == pytest.approx(speech["speech_loss"] * share, rel=1e-5)
    assert both["loss"] == pytest.approx((speech["loss"] + digits["loss"]) / 2, rel=1e-5)
    assert speech["loss"] >= 0.5 * speech["speech_loss"] > 0  # the weight of the task is 0.5
    before = model.get_weights()
    history = model.fit(steps("speech", "digits"), verbose=0).history
    assert all(np.isfinite(value).all() for value in history.values())
    assert history["loss"][0] > 0
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
