import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_multimodel.weighting import Uncertainty
from tests.weighting.toy import built, make_batch, make_model, numpy, train

LOSSES = st.floats(0.01, 20.0)
LOGARITHMS = st.floats(-3.0, 3.0)


def joint_loss(log_variances, losses, weights=(1.0, 1.0)) -> float:
    weighting = built(Uncertainty(), **dict(zip("ab", weights)))
    weighting.log_variances.assign(log_variances)
    parts = {name: keras.ops.convert_to_tensor(loss) for name, loss in zip("ab", losses)}
    return float(numpy(weighting.joint_loss(parts)))


@given(st.tuples(LOGARITHMS, LOGARITHMS), st.tuples(LOSSES, LOSSES), st.tuples(LOSSES, LOSSES))
def test_the_joint_loss_is_that_of_the_paper(s, losses, weights):
    sigma = np.exp(np.array(s) / 2)  # equation 10: L / sigma^2 + log(sigma)
    expected = np.sum(np.array(weights) * (np.array(losses) / sigma**2 + np.log(sigma)))
    np.testing.assert_allclose(joint_loss(s, losses, weights), expected, rtol=1e-4, atol=1e-4)


@given(LOSSES, LOGARITHMS)
def test_the_best_factor_is_one_over_twice_the_loss(loss, s):
    best = joint_loss((np.log(2 * loss), 0.0), (loss, 1.0))
    assert joint_loss((s, 0.0), (loss, 1.0)) >= best - 1e-4


def test_an_absent_task_adds_nothing_whatever_its_variance():
    assert joint_loss((0.3, 2.0), (1.5, 0.0)) == joint_loss((0.3, -1.0), (1.5, 0.0))
    assert joint_loss((0.3, 2.0), (1.5, 1.0)) != joint_loss((0.3, -1.0), (1.5, 1.0))


def test_a_step_goes_down_the_gradient():
    model = make_model(b=2.0)
    logs = train(model, Uncertainty(), learning_rate=0.1)
    # From s = 0: d/ds of weight * (exp(-s) * L + s / 2) is weight * (1 / 2 - L).
    slopes = np.array([1.0, 2.0]) * (0.5 - np.array([logs["a_loss"], logs["b_loss"]]))
    np.testing.assert_allclose(numpy(model.task_weighting.log_variances), -0.1 * slopes, rtol=1e-5)
    assert (logs["a_weight"], logs["b_weight"]) == (1.0, 2.0)  # those that the step used
    assert logs["loss"] == pytest.approx(logs["a_loss"] + 2 * logs["b_loss"])
    before = numpy(model.task_weighting.log_variances)
    logs = model.train_on_batch(*make_batch(), return_dict=True)
    model.reset_metrics()
    logs = model.test_on_batch(*make_batch(), return_dict=True)
    assert float(logs["b_weight"]) == pytest.approx(2 * np.exp(-before[1]), rel=1e-5)


def test_no_variance_is_learned_from_a_task_without_rows():
    model = make_model()
    logs = train(model, Uncertainty(), batch=make_batch(4, rows_of_b=0))
    log_variances = numpy(model.task_weighting.log_variances)
    assert log_variances[0] != 0.0 and log_variances[1] == 0.0
    assert logs["b_loss"] == 0.0
