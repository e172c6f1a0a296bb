import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from keras_multimodel.layers.moe.balance_losses import (
    importance_loss,
    load_loss,
    router_z_loss,
    squared_coefficient_of_variation,
    switch_balance_loss,
)

few = settings(deadline=None, max_examples=10)


def of(function, *arrays):
    return float(function(*[ops.convert_to_tensor(np.asarray(a, "float32")) for a in arrays]))


@pytest.mark.parametrize("loss", [importance_loss, load_loss, squared_coefficient_of_variation])
def test_cv_squared_by_hand(loss):
    # mean 2, variance (1 + 1 + 4 + 4) / 4 = 2.5, squared mean 4
    assert of(loss, [1, 3, 0, 4]) == pytest.approx(2.5 / 4)


@pytest.mark.parametrize("loss", [importance_loss, load_loss])
def test_cv_squared_rises_with_skew_and_is_least_where_uniform(loss):
    values = [of(loss, [1 + skew, 1, 1, 1]) for skew in (0.0, 0.5, 1.0, 3.0)]
    assert values[0] == 0.0 and values == sorted(values)


@pytest.mark.parametrize("loss", [importance_loss, load_loss])
def test_cv_squared_of_nothing_is_zero(loss):
    assert of(loss, np.zeros(4)) == 0.0


def switch(probabilities, mask=(1.0, 1.0)):
    """Two tokens, each to its most probable of two experts."""
    probabilities = np.array(probabilities)
    counts = np.bincount(probabilities.argmax(1)[np.array(mask) > 0], minlength=2)
    return of(switch_balance_loss, probabilities, counts, mask)


def test_switch_by_hand():
    # Both choose expert 0: shares (1, 0), mean probabilities (0.75, 0.25): 2 * 0.75.
    assert switch([[0.9, 0.1], [0.6, 0.4]]) == pytest.approx(1.5)


def test_switch_is_least_where_uniform():
    # A token each: shares (0.5, 0.5), mean probabilities (0.5, 0.5): 2 * (0.25 + 0.25).
    assert switch([[0.9, 0.1], [0.1, 0.9]]) == pytest.approx(1.0)
    skewed = [switch([[0.5 + s, 0.5 - s]] * 2) for s in (0.1, 0.2, 0.4)]
    assert skewed == sorted(skewed) and skewed[0] > 1.0


def test_switch_leaves_padding_out():
    assert switch([[0.9, 0.1], [0.6, 0.4]], mask=[1.0, 0.0]) == pytest.approx(1.8)
    assert switch([[0.9, 0.1], [0.6, 0.4]], mask=[0.0, 0.0]) == 0.0


def test_z_loss_by_hand():
    # log(1 + 1) = 0.693147, log(e^2 + e^2) = 2.693147; their squares 0.480453 and 7.253042
    logits = [[0.0, 0.0], [2.0, 2.0]]
    assert of(router_z_loss, logits, [1, 1]) == pytest.approx((0.480453 + 7.253042) / 2, rel=1e-5)
    assert of(router_z_loss, logits, [1, 0]) == pytest.approx(0.480453, rel=1e-5)
    assert of(router_z_loss, logits, [0, 0]) == 0.0


def test_z_loss_rises_with_the_logits():
    values = [of(router_z_loss, [[scale, -scale]], [1]) for scale in (0.0, 1.0, 2.0)]
    assert values == sorted(values) and values[0] < values[-1]


@few
@given(logits=arrays("float32", (4, 5), elements=st.floats(-5, 5, width=32)))
def test_z_loss_is_least_where_uniform(logits):
    """Of all logits of mean 0; there it is log(5)^2 = 2.5903."""
    centred = logits - logits.mean(axis=1, keepdims=True)
    least = of(router_z_loss, np.zeros((4, 5)), np.ones(4))
    assert least == pytest.approx(2.5903, rel=1e-4)
    assert of(router_z_loss, centred, np.ones(4)) >= least - 1e-4


@few
@given(values=arrays("float32", 6, elements=st.floats(0, 100, width=32)))
@pytest.mark.parametrize("loss", [importance_loss, load_loss])
def test_cv_squared_is_that_of_numpy(loss, values):
    expected = values.std() ** 2 / (values.mean() ** 2 + 1e-10)
    assert of(loss, values) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@few
@given(counts=arrays("int32", 5, elements=st.integers(0, 50)))
def test_switch_is_at_least_one_where_probabilities_and_choices_agree(counts):
    if counts.sum() == 0:
        return
    share = counts / counts.sum()
    value = of(switch_balance_loss, np.tile(share, (3, 1)), counts, np.ones(3))
    assert value == pytest.approx(5 * np.sum(share**2), rel=1e-4) and value > 1 - 1e-5
