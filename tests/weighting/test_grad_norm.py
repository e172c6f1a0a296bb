import keras
import numpy as np
import pytest

from keras_multimodel import MultiModel
from keras_multimodel.weighting import GradNorm
from tests.models.small_models import HIDDEN_DIM, make_tasks
from tests.weighting.toy import built, make_model, numpy, train


def linear_model(shared, heads, x, y):
    """Losses `(head . shared x - y)^2` and their gradients with respect to `shared`, by hand."""
    errors = heads @ shared @ x - y
    return errors**2, [2 * e * np.outer(head, x) for e, head in zip(errors, heads)]


def reference(w, losses, first, gradients, alpha, learning_rate):
    """One step of algorithm 1 for the weights, with the norms of `w * gradient`."""
    slopes = np.array([np.linalg.norm(gradient) for gradient in gradients])
    norms, rates = w * slopes, losses / first
    targets = norms.mean() * (rates / rates.mean()) ** alpha
    moved = w - learning_rate * np.sign(norms - targets) * slopes
    return moved * w.sum() / moved.sum()


def products(gradients):
    flat = np.array([gradient.ravel() for gradient in gradients])
    return keras.ops.convert_to_tensor((flat @ flat.T).astype("float32"))


def tensor(x):
    return keras.ops.convert_to_tensor(np.asarray(x, "float32"))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_steps_are_those_of_the_algorithm(alpha):
    shared, x = np.array([[1.0, 0.5], [-0.3, 0.8]]), np.array([1.0, 2.0])
    heads, y = np.array([[1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]]), np.array([0.5, 1.0, 3.0])
    weighting = built(GradNorm(alpha, learning_rate=0.01), a=1.0, b=1.0, c=2.0)
    w, first = np.ones(3), None
    for _ in range(4):
        losses, gradients = linear_model(shared, heads, x, y)
        first = losses if first is None else first
        factors = weighting.gradient_factors(tensor(losses), products(gradients))
        np.testing.assert_allclose(numpy(factors), w * [1, 1, 2], rtol=1e-4)
        w = reference(w, losses, first, gradients, alpha, 0.01)
        np.testing.assert_allclose(numpy(weighting.loss_weights), w, rtol=1e-4)
        assert w.sum() == pytest.approx(3.0)
        shared = shared - 0.01 * sum(gradients)
    assert np.abs(w - 1).max() > 0.01


def test_norms_become_even():
    """With alpha 0 and gradients that stay as they are, w settles at 1 / norm."""
    weighting = built(GradNorm(alpha=0.0, learning_rate=0.001), a=1.0, b=1.0)
    gradients = [np.array([3.0, 0.0]), np.array([0.0, 1.0])]
    for _ in range(400):
        weighting.gradient_factors(tensor([1.0, 1.0]), products(gradients))
    np.testing.assert_allclose(numpy(weighting.loss_weights), [0.5, 1.5], atol=0.01)


def test_an_absent_task_keeps_its_weight_and_its_first_loss_is_that_of_its_first_step():
    weighting = built(GradNorm(), a=1.0, b=1.0, c=1.0)
    gradients = [np.array([3.0, 0.0]), np.array([0.0, 1.0]), np.array([0.0, 0.0])]
    weighting.gradient_factors(tensor([2.0, 1.0, 0.0]), products(gradients))
    w = numpy(weighting.loss_weights)
    assert w[2] == 1.0 and w[0] < 1.0 < w[1] and w.sum() == pytest.approx(3.0)
    np.testing.assert_allclose(numpy(weighting.first_losses), [2.0, 1.0, 0.0])
    gradients[2] = np.array([1.0, 1.0])
    weighting.gradient_factors(tensor([1.0, 1.0, 5.0]), products(gradients))
    np.testing.assert_allclose(numpy(weighting.first_losses), [2.0, 1.0, 5.0])


def test_weights_stay_positive():
    weighting = built(GradNorm(learning_rate=10.0), a=1.0, b=1.0)
    weighting.gradient_factors(
        tensor([1.0, 1.0]), products([np.array([30.0, 0.0]), np.array([0.0, 1.0])])
    )
    assert numpy(weighting.loss_weights).min() > 0


def test_norms_are_those_of_the_last_encoder_block():
    model = make_model()
    expected = model.body.encoder.blocks[-1].trainable_weights
    assert GradNorm.measured_weights(model) == expected != []
    experts = MultiModel(
        make_tasks("topic"), HIDDEN_DIM, None, None, keras.layers.Dense(HIDDEN_DIM)
    )
    assert GradNorm.measured_weights(experts) == experts.body.encoder.experts.trainable_weights


def test_refuses_an_encoder_without_weights():
    model = MultiModel(make_tasks("topic"), HIDDEN_DIM, None, None, None)
    with pytest.raises(ValueError, match="`task_weighting` must be another than GradNorm"):
        train(model, GradNorm())


@pytest.mark.parametrize("arguments", [{"alpha": -1.0}, {"learning_rate": 0.0}])
def test_refuses_arguments(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"`{name}` must .* Received: {name}={value}"):
        GradNorm(**arguments)


def test_arguments_are_kept():
    again = GradNorm.from_config(GradNorm(alpha=0.3, learning_rate=0.5).get_config())
    assert (again.alpha, again.learning_rate) == (0.3, 0.5)
