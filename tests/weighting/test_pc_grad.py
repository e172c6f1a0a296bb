import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel.weighting import PCGrad
from keras_multimodel.weighting.pc_grad import project
from tests.weighting.toy import built, numpy


def reference(gradients, order):
    """Algorithm 1 on the gradients themselves."""
    projected = []
    for i, gradient in enumerate(gradients):
        gradient = gradient.copy()
        for j in order[i]:
            dot = gradient @ gradients[j]
            if i != j and dot < 0:
                gradient -= dot / (gradients[j] @ gradients[j]) * gradients[j]
        projected.append(gradient)
    return np.array(projected)


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_projections_are_those_of_the_algorithm(size, seed):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(size, 8)) * rng.uniform(0.1, 10, (size, 1))
    gradients[rng.uniform(size=size) < 0.2] = 0.0  # absent
    order = np.array([rng.permutation(size) for _ in range(size)])
    products = (gradients @ gradients.T).astype("float32")
    coefficients = numpy(project(keras.ops.convert_to_tensor(products), order))
    expected = reference(gradients, order)
    scale = np.abs(gradients).max() + 1e-9
    np.testing.assert_allclose(coefficients @ gradients / scale, expected / scale, atol=1e-3)


def test_two_that_conflict_become_orthogonal_to_each_other():
    # a = (1, 0), b = (-1, 1): a - (-1 / 2) b = (1/2, 1/2) and b - (-1) a = (0, 1).
    products = np.array([[1.0, -1.0], [-1.0, 2.0]], "float32")
    weighting = built(PCGrad(seed=0), a=1.0, b=1.0)
    factors = weighting.gradient_factors(None, keras.ops.convert_to_tensor(products))
    # Their sum (1/2, 3/2) is 2 a + 1.5 b.
    np.testing.assert_allclose(numpy(factors), [2.0, 1.5], rtol=1e-6)


def test_weights_multiply_what_was_projected():
    products = np.array([[1.0, -1.0], [-1.0, 2.0]], "float32")
    weighting = built(PCGrad(seed=0), a=1.0, b=4.0)
    factors = weighting.gradient_factors(None, keras.ops.convert_to_tensor(products))
    # (1/2, 1/2) + 4 (0, 1) = (1/2, 9/2) = 5 a + 4.5 b
    np.testing.assert_allclose(numpy(factors), [5.0, 4.5], rtol=1e-6)


def test_every_order_is_drawn():
    """Of three gradients that all conflict, the order decides: the sums differ."""
    gradients = np.array([[1.0, 0.1], [-1.0, 0.5], [-0.2, -1.0]])
    products = keras.ops.convert_to_tensor((gradients @ gradients.T).astype("float32"))
    weighting = built(PCGrad(seed=3), a=1.0, b=1.0, c=1.0)
    drawn = {
        tuple(np.round(numpy(weighting.gradient_factors(None, products)), 4)) for _ in range(200)
    }
    possible = set()
    for code in range(8):
        others = [[1, 2], [0, 2], [0, 1]]
        order = [pair[::-1] if code >> i & 1 else pair for i, pair in enumerate(others)]
        sums = reference(gradients, order).sum(0)
        possible.add(tuple(np.round(sums, 3)))
    sums = {tuple(np.round(np.array(factors) @ gradients, 3)) for factors in drawn}
    assert len(sums) == len(possible) > 1
    for one in sums:
        assert min(np.abs(np.subtract(one, other)).max() for other in possible) < 2e-3


def test_the_seed_is_kept():
    again = PCGrad.from_config(PCGrad(seed=7).get_config())
    assert again.seed == 7


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow runs it")
def test_refuses_other_backends():
    with pytest.raises(ValueError, match="`task_weighting` must be .* Received: .*backend="):
        PCGrad().check_model(None)
