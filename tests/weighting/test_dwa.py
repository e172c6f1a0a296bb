import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel.weighting import DWA
from tests.weighting.toy import built, make_batch, make_model, numpy

SMALLEST = np.finfo("float32").tiny  # below it a float32 loses digits, or is 0
LOSSES = st.lists(st.lists(st.floats(0.05, 9.0), min_size=3, max_size=3), min_size=1, max_size=5)


def reference(means, temperature):
    """Equation 7 for each epoch, given the means of `(epoch, task)` before it."""
    factors = []
    for epoch in range(len(means)):
        last_two = means[max(0, epoch - 2) : epoch]
        r = last_two[1] / last_two[0] if len(last_two) == 2 else np.ones(means.shape[1])
        e = np.exp(r / temperature)
        factors.append(len(r) * e / e.sum())
    return np.array(factors)


def one_step(weighting, losses):
    names = weighting.task_names
    tensors = {n: keras.ops.convert_to_tensor(x, "float32") for n, x in zip(names, losses)}
    weighting.joint_loss(tensors)
    return numpy(weighting.last_factors)


@settings(max_examples=20)
@given(LOSSES, st.floats(0.5, 5.0))
def test_factors_are_those_of_the_equation(history, temperature):
    """Two steps an epoch, whose mean is the given loss."""
    weighting = built(DWA(temperature), a=1.0, b=1.0, c=1.0)
    means = np.array(history)
    for mean, expected in zip(means, reference(means, temperature)):
        for losses in (0.5 * mean, 1.5 * mean):
            found = one_step(weighting, losses)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=SMALLEST)
        weighting.end_epoch()
        weighting.end_epoch()  # a second call: nothing has been trained since


def test_weights_of_tasks_are_factors_too():
    weighting = built(DWA(), a=1.0, b=3.0)
    np.testing.assert_allclose(one_step(weighting, (1.0, 1.0)), [1.0, 3.0], rtol=1e-6)


def test_steps_without_a_task_do_not_count():
    often, seldom = (built(DWA(), a=1.0, b=1.0) for _ in range(2))
    for mean_a, mean_b in [(4.0, 2.0), (3.0, 1.8), (2.5, 1.0)]:
        for weighting, steps in ((often, [mean_b] * 3), (seldom, [0.0, mean_b, 0.0])):
            for loss in steps:
                one_step(weighting, (mean_a, loss))
            weighting.end_epoch()
    assert one_step(often, (1.0, 1.0)) == pytest.approx(one_step(seldom, (1.0, 1.0)), rel=1e-6)
    assert not np.allclose(numpy(often.last_factors), 1.0, atol=0.01)


def test_an_epoch_without_a_task_leaves_its_rate():
    weighting = built(DWA(), a=1.0, b=1.0)
    for losses in [(4.0, 2.0), (3.0, 1.0), (1.5, 0.0)]:
        one_step(weighting, losses)
        weighting.end_epoch()
    e = np.exp(np.array([1.5 / 3.0, 1.0 / 2.0]) / 2.0)
    np.testing.assert_allclose(one_step(weighting, (1.0, 1.0)), 2 * e / e.sum(), rtol=1e-5)


def test_fit_follows_the_losses_that_it_logs():
    model = make_model(b=0.5)
    model.compile(keras.optimizers.Adam(0.02), task_weighting=DWA(temperature=0.2))
    x, y = make_batch(8)
    history = model.fit(x, y, batch_size=4, epochs=4, validation_data=(x, y), verbose=0).history
    means = np.array([history["a_loss"], history["b_loss"]]).T
    factors = np.array([history["a_weight"], history["b_weight"]]).T
    np.testing.assert_allclose(factors, reference(means, 0.2) * [1.0, 0.5], rtol=1e-4)
    assert np.abs(factors[-1] - [1.0, 0.5]).max() > 1e-3


def state(model):
    names = ("loss_sums", "loss_counts", "last_means", "means_before")
    return {name: numpy(getattr(model.task_weighting, name)).tolist() for name in names}


class Evaluates(keras.callbacks.Callback):
    """Evaluates and resets metrics in the middle of every epoch, and keeps what DWA then has."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            before = state(self.model)
            self.model.evaluate(*self.batch, verbose=0)
            self.model.reset_metrics()
            self.seen.append((before, state(self.model)))


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has the state in its step")
def test_an_evaluation_in_the_middle_of_an_epoch_does_not_end_it():
    x, y = make_batch(8)
    models = [make_model(), make_model()]
    models[1].set_weights(models[0].get_weights())
    evaluates = Evaluates((x, y))
    for model, callbacks in zip(models, ([], [evaluates])):
        model.compile(keras.optimizers.SGD(0.1), task_weighting=DWA(), run_eagerly=True)
        model.fit(x, y, batch_size=4, epochs=3, shuffle=False, callbacks=callbacks, verbose=0)
    for before, after in evaluates.seen:
        assert before["loss_counts"] == [1.0, 1.0] and before == after
    plain, evaluated = map(state, models)
    for name, value in plain.items():
        np.testing.assert_allclose(evaluated[name], value, rtol=1e-5, err_msg=name)
    assert plain["loss_counts"] == [0.0, 0.0]


def test_make_variables_and_validation_end_no_epoch():
    x, y = make_batch(8)
    model = make_model()
    model.compile("sgd", task_weighting=DWA(), run_eagerly=True)
    model.train_on_batch(x, y)
    before = state(model)
    model.make_variables()
    model.evaluate(x, y, verbose=0)
    assert state(model) == before and before["loss_counts"] == [1.0, 1.0]
    model.task_weighting.end_epoch()  # as a loop of `train_on_batch` does
    assert state(model)["last_means"] == before["loss_sums"]


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_refuses_a_temperature(temperature):
    message = f"`temperature` must be positive and finite. Received: temperature={temperature}"
    with pytest.raises(ValueError, match=message):
        DWA(temperature)
