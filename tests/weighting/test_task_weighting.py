"""What all methods have in common: compiling, logs, saving."""

import keras
import numpy as np
import pytest

from keras_multimodel.callbacks import StopOnDivergence
from keras_multimodel.weighting import DWA, GradNorm, PCGrad, TaskWeighting, Uncertainty
from tests.callbacks.test_divergence import Broken
from tests.weighting.toy import make_batch, make_model, numpy, train

METHODS = [Uncertainty(), DWA(0.2)]
if keras.backend.backend() == "tensorflow":
    METHODS += [GradNorm(), PCGrad(seed=0)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:]]


@pytest.fixture(
    scope="module", params=[METHODS[0], *SLOW], ids=lambda method: type(method).__name__
)
def fitted(request):
    model = make_model(b=0.5)
    model.compile(keras.optimizers.SGD(0.02), task_weighting=request.param)
    x, y = make_batch(8)
    fit = model.fit(x, y, batch_size=4, epochs=4, validation_data=(x, y), verbose=0)
    return model, fit.history


def test_the_logs_show_weights_that_change(fitted):
    _, history = fitted
    for name, weight in (("a_weight", 1.0), ("b_weight", 0.5)):
        assert len(history[name]) == 4 and np.all(np.isfinite(history[name]))
        assert abs(history[name][-1] - weight) > 1e-4, name
    # Not that it falls: its factors change.
    assert np.all(np.isfinite(history["loss"]))


def test_evaluation_reports_the_plain_losses(fitted):
    _, history = fitted
    plain = np.array(history["val_a_loss"]) + 0.5 * np.array(history["val_b_loss"])
    np.testing.assert_allclose(history["val_loss"], plain, rtol=1e-5)


@pytest.mark.slow
def test_a_saved_model_keeps_method_state_and_optimizer(fitted, tmp_path):
    model, _ = fitted
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    mine, theirs = model.task_weighting, again.task_weighting
    assert type(theirs) is type(mine) and theirs.get_config() == mine.get_config()
    assert len(mine.variables) == len(theirs.variables) > 0
    for variable, loaded in zip(mine.variables, theirs.variables):
        np.testing.assert_allclose(numpy(loaded), numpy(variable), err_msg=variable.path)
    x, y = make_batch()
    steps = [m.train_on_batch(x, y, return_dict=True) for m in (model, again)]
    assert steps[0].keys() == steps[1].keys()
    for m in (model, again):
        m.reset_metrics()
        steps.append(m.train_on_batch(x, y, return_dict=True))
    for name, value in steps[2].items():
        np.testing.assert_allclose(steps[3][name], value, rtol=1e-4, err_msg=name)
    assert keras.saving.load_model(tmp_path / "model.keras", compile=False).task_weighting is None


@each_method
def test_a_loss_that_is_nan_is_named_and_kept_out_of_the_state(method):
    model = make_model()
    loss = Broken(lambda loss, _: loss * np.nan, 2)  # the first call builds it
    model.compile("sgd", loss={"b": loss}, task_weighting=method, run_eagerly=True)
    message = "step 1 of epoch 1: the loss of task 'b' is not finite"
    with pytest.raises(FloatingPointError, match=message):
        model.fit(*make_batch(), callbacks=[StopOnDivergence()], verbose=0)
    for variable in model.task_weighting.non_trainable_variables:
        assert np.all(np.isfinite(numpy(variable))), variable.path


def test_the_state_is_among_the_models_variables(fitted):
    model, _ = fitted
    found = {id(variable) for variable in model.variables}
    assert {id(variable) for variable in model.task_weighting.variables} <= found


def test_fixed_weights_train_as_no_method_does():
    logs = [train(make_model(b=0.5), method, steps=3) for method in (None, TaskWeighting())]
    assert (logs[1].pop("a_weight"), logs[1].pop("b_weight")) == (1.0, 0.5)
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def test_weights_load_into_a_model_that_weighs_its_tasks_otherwise(tmp_path):
    plain, weighed = make_model(), make_model()
    train(plain, None)
    plain.save_weights(tmp_path / "plain.weights.h5")
    weighed.compile("sgd", task_weighting=Uncertainty())
    weighed.load_weights(tmp_path / "plain.weights.h5")
    for mine, theirs in zip(plain.trainable_weights, weighed.trainable_weights):
        np.testing.assert_array_equal(numpy(mine), numpy(theirs))
    np.testing.assert_array_equal(numpy(weighed.task_weighting.log_variances), 0.0)


def test_an_instance_is_a_template():
    method, models = Uncertainty(name="mine"), [make_model(), make_model()]
    for model in models:
        train(model, method)
    assert not method.built and models[0].task_weighting.name == "mine"
    assert models[0].task_weighting is not models[1].task_weighting


def test_compiling_again_forgets_the_method():
    model = make_model()
    weights = len(model.weights)
    train(model, Uncertainty())
    assert len(model.weights) == weights + 2
    logs = train(model, None)
    assert len(model.weights) == weights and model.task_weighting is None
    assert "a_weight" not in logs


@each_method
def test_a_task_of_weight_0_stays_out(method):
    model = make_model(a=0.0)
    logs = train(model, method, steps=2)
    assert model.task_weighting.task_names == ("b",)
    assert logs["a_loss"] > 0 and "a_weight" not in logs
    assert np.isfinite(logs["loss"])


def test_loss_weights_of_compile_take_the_place_of_those_of_the_tasks():
    model = make_model()
    model.compile("sgd", loss_weights={"b": 7.0}, task_weighting=TaskWeighting())
    assert list(model.task_weighting.task_weights) == [1.0, 7.0]


def test_sample_weights_and_losses_of_the_user():
    x, y = make_batch()
    y = {name: np.eye(2, dtype="float32")[labels] for name, labels in y.items()}
    model, plain = make_model(), make_model()
    sample_weight = {"a": np.array([1.0, 0.0, 2.0, 1.0]), "b": np.ones(4)}
    logs = []
    for m, method in ((plain, None), (model, TaskWeighting())):
        losses = {"a": "mse", "b": keras.losses.MeanSquaredError()}
        m.compile("sgd", loss=losses, task_weighting=method, run_eagerly=True)
        logs.append(m.train_on_batch(x, y, sample_weight=sample_weight, return_dict=True))
    for name, value in logs[0].items():
        np.testing.assert_allclose(logs[1][name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"task_weighting": "uncertainty"}, "`task_weighting` must be an instance .*'uncertainty'"),
        ({"task_weighting": Uncertainty}, "`task_weighting` must be an instance .*Uncertainty'"),
        (
            {"task_weighting": DWA(), "loss_weights": {"a": -1.0}},
            r"`loss_weights` must hold numbers .* Received: loss_weights\['a'\]=-1.0",
        ),
        (
            {"task_weighting": DWA(), "loss_weights": {"a": 0, "b": 0}},
            "`loss_weights` must be positive for at least one task .* Received: .*'a': 0",
        ),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model().compile("sgd", **arguments)
