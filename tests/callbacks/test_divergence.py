import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.callbacks import StopOnDivergence
from keras_multimodel.callbacks.divergence import FiniteCheck, check_losses
from tests.models.small_models import build, make_batch, make_tasks

TASKS = make_tasks("digits", "topic")
X, Y = make_batch(TASKS, [3] * 8)


class Broken(keras.losses.Loss):
    """Cross-entropy until a step, from which on `breaks` replaces it."""

    def __init__(self, breaks, step):
        super().__init__(name="broken")
        self.breaks, self.step, self.calls = breaks, step, 0

    def call(self, y_true, y_pred):
        self.calls += 1
        loss = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        return self.breaks(loss, y_pred) if self.calls >= self.step else loss


@pytest.fixture(scope="module")
def model():
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "num_decoder_blocks": 0}
    model = build(TASKS, moe=None, attention_block=None, **sizes)
    return model, model.get_weights()


def fit(model, callback=None, optimizer="sgd", epochs=1, **options):
    """Trains four steps an epoch, from the first weights."""
    model, weights = model
    model.set_weights(weights)
    model.compile(optimizer, run_eagerly=True, **options)
    callbacks = [StopOnDivergence() if callback is None else callback]
    arguments = {"batch_size": 2, "shuffle": False, "epochs": epochs, "verbose": 0}
    return model.fit(X, Y, callbacks=callbacks, **arguments)


def stops(message):
    return pytest.raises(FloatingPointError, match=f"^Training diverged in {message}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite(model, value):
    # The third call is that of the third step: `compile` builds its loss in the first of none.
    loss = Broken(lambda loss, logits: loss * value, 4)
    with stops(r"step 3 of epoch 1: the loss of task 'topic' is not finite \(topic_loss="):
        fit(model, loss={"topic": loss})


def test_a_gradient_that_is_not_finite_while_the_loss_is(model):
    def breaks(loss, logits):
        return loss + ops.sum(ops.sqrt(ops.abs(logits) * 0.0), axis=-1)  # slope inf * 0

    where = "step 2 of epoch 1: the gradient was not finite in task 'topic'. .* are not finite, '"
    with stops(where):
        fit(model, loss={"topic": Broken(breaks, 3)})


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_learning_rate_that_is_far_too_high(model, optimizer):
    where = "step 1 of epoch 1: the update was far too large. .* not below 1e19, '"
    with stops(where):
        fit(model, optimizer=getattr(keras.optimizers, optimizer)(1e30), epochs=3)


def test_a_loss_that_explodes_and_stays_finite(model):
    """At first, the loss is about that of a guess among five classes, log(5) = 1.61."""
    loss = Broken(lambda loss, logits: 0.0 * loss + 17.0, 4)
    callback = StopOnDivergence(factor=10.0, patience=4)
    with stops("step 2 of epoch 2: the loss of 'topic' has been above 16.* for 4 steps .* is 17;"):
        fit(model, callback, epochs=3, loss={"topic": loss})
    assert callback.suspicious


def test_a_loss_that_rises_less_goes_on(model):
    loss = Broken(lambda loss, logits: 0.0 * loss + 9.0, 4)
    callback = StopOnDivergence(factor=6.0, patience=1)
    fit(model, callback, loss={"topic": loss})
    assert not callback.suspicious
    state = callback.get_state()
    assert set(state) == {"digits", "topic"} and 0.5 < state["topic"] < 4.0
    other = StopOnDivergence()
    other.set_state(state)
    assert other.get_state() == state


def test_a_good_training_goes_on(model):
    assert len(fit(model, StopOnDivergence(every=3)).history["loss"]) == 1


def test_what_the_logs_say():
    check_losses({"loss": 1.0, "a_loss": 0.0, "a_accuracy": np.nan, "val_loss": np.nan}, "step 1")
    with stops("step 1: the loss of tasks 'a', 'b' is not finite .a_loss=nan, b_loss=inf"):
        logs = {"loss": np.nan, "a_loss": np.nan, "b_loss": np.inf, "c_loss": 1.0}
        check_losses(logs, "step 1")
    with stops("step 2: loss=nan, while the loss of each task is finite. .*balances experts"):
        check_losses({"loss": np.nan, "a_loss": 1.0}, "step 2")
    with stops("step 3: loss=inf"):
        check_losses({"loss": np.inf}, "step 3")


def test_an_epoch_without_the_callback_warns(model):
    loss = Broken(lambda loss, logits: loss * np.nan, 4)
    with pytest.warns(UserWarning, match="loss of epoch 1 is nan: .*`kmm.callbacks.StopOnDiv"):
        fit(model, keras.callbacks.Callback(), loss={"topic": loss})


def test_float16_that_overflows_at_every_scale(model):
    model, weights = model
    model.set_weights(weights)
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    model.make_variables()
    check = FiniteCheck(model)
    check("step 1")
    model.optimizer.dynamic_scale.assign(0.5)  # halved in each step whose gradient is not finite
    with stops("step 9: no gradient has been finite in float16.*Received: scale=0.5"):
        check("step 9")


def test_weights_that_are_not_finite_at_first(model):
    model, weights = model
    model.set_weights(weights)
    model.compile("sgd")
    kernel = model.trainable_variables[0]
    kernel.assign(ops.ones(kernel.shape) * np.nan)
    with pytest.raises(ValueError, match="`model` must have finite .*Received: NaN .* in 1 of the"):
        FiniteCheck(model)
    kernel.trainable = False  # such as a mask of -inf
    check = FiniteCheck(model)
    check("step 1")
    kernel.trainable = True
    model.trainable_variables[-1].assign(ops.ones(model.trainable_variables[-1].shape) * np.inf)
    with stops("step 2: the gradient was not finite.* 1 of "):
        check("step 2")


@pytest.mark.parametrize(
    "argument, value", [("factor", 0), ("factor", "5"), ("patience", 0), ("every", 1.5)]
)
def test_errors(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be .*Received: {argument}={value!r}"):
        StopOnDivergence(**{argument: value})
