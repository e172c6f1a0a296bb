import numpy as np
import pytest
from keras import ops

from keras_multimodel.layers.moe.statistics import busiest, entropy, idlest
from tests.references import array


def test_loads_are_shares_of_a_fair_share():
    tokens = ops.convert_to_tensor([2.0, 6.0, 0.0, 8.0])  # the fair share is 4
    assert float(busiest(tokens)) == 2.0 and float(idlest(tokens)) == 0.0


def test_loads_of_nothing_are_zero():
    assert float(busiest(ops.zeros(3))) == float(idlest(ops.zeros(3))) == 0.0


def test_entropy_by_hand():
    # Uniform over 4: 1. Half and half over two of 4: log 2 / log 4 = 0.5. One for sure: 0.
    logits = [[3.0, 3.0, 3.0, 3.0], [50.0, 50.0, -50.0, -50.0], [100.0, 0.0, 0.0, 0.0]]
    values = array(entropy(ops.convert_to_tensor(logits)))
    np.testing.assert_allclose(values, [1.0, 0.5, 0.0], atol=1e-6)


def test_entropy_of_one_expert_is_zero():
    assert float(entropy(ops.zeros((1, 1)))[0]) == pytest.approx(0.0)
