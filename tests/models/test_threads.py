"""What another thread may do with a model while `fit` runs."""

import threading

import keras
import numpy as np
import pytest

from keras_multimodel.layers import MoELayer
from tests.models.small_models import HIDDEN_DIM, build, make_batch, make_tasks

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="a step takes the weights away from all others"
)
TASKS = make_tasks("copy")
X, Y = make_batch(TASKS, (5, 3))


@keras.saving.register_keras_serializable(package="tests")
class Interrupted(keras.layers.Layer):
    """A block that has another thread do something in the middle of each training step."""

    position_wise = True
    hook = None

    def call(self, inputs, training=None):
        if training and Interrupted.hook is not None:
            hook, Interrupted.hook = Interrupted.hook, None
            thread = threading.Thread(target=hook)
            thread.start()
            thread.join()
        return inputs


@pytest.fixture(scope="module")
def model():
    moe = MoELayer(HIDDEN_DIM, num_experts=4, top_k=2, router="top_k", balance_loss_weight=0.5)
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    model = build(TASKS, conv_block=Interrupted(), attention_block=None, moe=moe, **sizes)
    return model, model.get_weights()


def train(model, hook=None):
    """Returns the loss of a step and the weights after it."""
    model, weights = model
    model.set_weights(weights)
    model.compile("sgd", run_eagerly=True)
    Interrupted.hook = hook
    history = model.fit(X, Y, verbose=0).history
    assert Interrupted.hook is None
    trained = [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]
    return [np.array(history["loss"]), *trained]


@pytest.mark.parametrize("what", ["call", "generate", "score", "predict", "task_model"])
def test_a_training_is_not_changed(model, what):
    arguments = {
        "call": (X,),
        "generate": ("copy", [np.array([3, 1])], "greedy", 1),
        "score": ("copy", [np.array([3, 1])], [np.array([4, 1])]),
        "predict": (X,),
        "task_model": ("copy",),
    }[what]
    function = model[0] if what == "call" else getattr(model[0], what)
    for one, other in zip(train(model, lambda: function(*arguments)), train(model), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("what", ["evaluate", "fit"])
def test_what_would_change_it_is_refused(model, what):
    errors = []

    def hook():
        try:
            getattr(model[0], what)(X, Y, verbose=0)
        except RuntimeError as error:
            errors.append(str(error))

    result = train(model, hook)
    assert len(errors) == 1 and errors[0].startswith(f"`{what}` must not be called while `fit`")
    for one, other in zip(result, train(model), strict=True):
        np.testing.assert_array_equal(one, other)
