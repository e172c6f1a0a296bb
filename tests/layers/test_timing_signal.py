import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.timing_signal import TimingSignal
from tests import references
from tests.layer_contract import run_layer_test


@settings(deadline=None, max_examples=10)
@given(length=st.integers(1, 12), depth=st.integers(1, 9), scale=st.sampled_from([10.0, 1e4]))
def test_equals_the_formula(length, depth, scale):
    x = np.random.default_rng(0).normal(size=(2, length, depth)).astype("float32")
    y = ops.convert_to_numpy(TimingSignal(max_timescale=scale)(x))
    np.testing.assert_allclose(y, x + references.timing(length, depth, scale), atol=1e-5)


def test_by_hand():
    # depth 2: sin(t), cos(t).
    y = ops.convert_to_numpy(TimingSignal()(np.zeros((1, 2, 2), "float32")))
    np.testing.assert_allclose(y[0], [[0, 1], [np.sin(1), np.cos(1)]], atol=1e-6)


def test_a_later_start_continues_the_signal():
    layer = TimingSignal()
    x = np.zeros((1, 9, 6), "float32")
    whole = ops.convert_to_numpy(layer(x))
    rest = ops.convert_to_numpy(layer(x[:, 4:], start=4))
    np.testing.assert_allclose(rest, whole[:, 4:], atol=1e-6)


def test_keeps_the_contract_of_layers():
    run_layer_test(
        TimingSignal,
        init_kwargs={"max_timescale": 100.0},
        input_shape=(2, 5, 6),
        expected_output_shape=(2, 5, 6),
        expected_num_trainable_weights=0,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
    )


@pytest.mark.parametrize("value", [0, -1.0])
def test_refuses_a_timescale(value):
    with pytest.raises(ValueError, match=f"`max_timescale`.*Received: max_timescale={value}"):
        TimingSignal(max_timescale=value)


def test_refuses_a_rank():
    with pytest.raises(ValueError, match=r"`inputs`.*Received: shape=\(2, 5\)"):
        TimingSignal()(np.zeros((2, 5)))
