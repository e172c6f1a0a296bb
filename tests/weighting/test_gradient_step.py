"""The step as a whole, against gradients that are taken and combined here, one by one."""

import keras
import numpy as np
import pytest

from keras_multimodel.layers import MoELayer
from keras_multimodel.losses import LabelSmoothedCrossentropy
from keras_multimodel.weighting import GradNorm, PCGrad
from tests.models.small_models import HIDDEN_DIM
from tests.weighting.toy import make_batch, make_model, numpy, train

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the step is TensorFlow's"
)


def make_experts():
    return MoELayer(HIDDEN_DIM, 4, 2, router="top_k", balance_loss_weight=0.1)


def gradients(model, batch):
    """Returns the gradients of the losses of "a" and "b" and of what the experts add, flat."""
    import tensorflow as tf

    from keras_multimodel.weighting.gradient_step import dot_products

    x, y = batch
    weights = model.trainable_weights
    result, lists = [], []
    for part in ("a", "b", None):
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = tf.add_n(model.losses)
            if part:
                loss = LabelSmoothedCrossentropy()(y[part], y_pred[part])
        lists.append(tape.gradient(loss, weights))
        filled = [tf.zeros_like(w) if g is None else g for g, w in zip(lists[-1], weights)]
        result.append(np.concatenate([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in filled]))
    return result, numpy(dot_products(lists))


def flat(model):
    return np.concatenate([numpy(weight).ravel() for weight in model.trainable_weights])


@pytest.fixture(scope="module")
def start():
    return gradients(make_model(make_experts()), make_batch())


def test_the_tasks_conflict(start):
    (a, b, _), _ = start
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) < -0.2


def test_dot_products(start):
    parts, products = start
    expected = np.array(parts) @ np.array(parts).T
    np.testing.assert_allclose(products, expected, rtol=1e-3, atol=1e-5)


def test_pc_grad_steps_along_the_projected_sum(start):
    (a, b, added), _ = start
    model = make_model(make_experts(), b=3.0)
    before = flat(model)
    logs = train(model, PCGrad(), learning_rate=1.0, run_eagerly=False)
    dot = a @ b
    expected = a - dot / (b @ b) * b + 3 * (b - dot / (a @ a) * a) + added
    np.testing.assert_allclose(before - flat(model), expected, rtol=1e-3, atol=1e-4)
    assert logs["a_weight"] == pytest.approx(1 - 3 * dot / (a @ a), rel=1e-3)
    assert logs["b_weight"] == pytest.approx(3 - dot / (b @ b), rel=1e-3)


@pytest.mark.slow
def test_grad_norm_steps_along_the_weighted_sum_and_moves_the_weights(start):
    (a, b, added), _ = start
    model = make_model(make_experts())
    before = flat(model)
    weighting = GradNorm(alpha=0.0, learning_rate=1e-3)
    train(model, weighting, learning_rate=1.0, run_eagerly=False)
    np.testing.assert_allclose(before - flat(model), a + b + added, rtol=1e-3, atol=1e-4)
    w = numpy(model.task_weighting.loss_weights)
    measured = np.concatenate(
        [
            np.full(
                np.prod(weight.shape), any(weight is m for m in GradNorm.measured_weights(model))
            )
            for weight in model.trainable_weights
        ]
    )
    slopes = np.array([np.linalg.norm(g[measured]) for g in (a, b)])
    moved = 1 - 1e-3 * np.sign(slopes - slopes.mean()) * slopes
    np.testing.assert_allclose(w, moved * 2 / moved.sum(), rtol=1e-4)


def test_a_task_without_rows_changes_nothing():
    """The step is that of "a" alone, and finite."""
    batch = make_batch(4, rows_of_b=0)
    for weighting in (PCGrad(), GradNorm()):
        alone, weighed = make_model(), make_model()
        train(alone, None, batch=batch)
        logs = train(weighed, weighting, batch=batch)
        np.testing.assert_allclose(flat(weighed), flat(alone), rtol=1e-4, atol=1e-6)
        assert (logs["a_weight"], logs["b_weight"], logs["b_loss"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("weighting", [PCGrad(), GradNorm()])
def test_the_scale_of_a_loss_changes_no_step(weighting):
    """What mixed_float16 adds: a scale that is divided out again, and steps that are left out."""
    plain, scaled = make_model(), make_model()
    x, y = make_batch()
    optimizers = [keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1)]
    optimizers[1] = keras.optimizers.LossScaleOptimizer(optimizers[1], initial_scale=2.0**10)
    for model, optimizer in zip((plain, scaled), optimizers):
        model.compile(optimizer, task_weighting=weighting, run_eagerly=True)
        for _ in range(2):
            model.train_on_batch(x, y)
    np.testing.assert_allclose(flat(scaled), flat(plain), rtol=1e-4, atol=1e-5)
    weights = [numpy(model.task_weighting.last_factors) for model in (plain, scaled)]
    np.testing.assert_allclose(*weights, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", [PCGrad(), GradNorm()])
def test_a_step_that_overflows_leaves_the_state_as_it_was(weighting):
    model = make_model()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), float("inf"))
    model.compile(optimizer, task_weighting=weighting)
    before = flat(model)
    logs = model.train_on_batch(*make_batch(), return_dict=True)
    np.testing.assert_array_equal(flat(model), before)
    assert float(logs["a_weight"]) == float(logs["b_weight"]) == 1.0
    if isinstance(weighting, GradNorm):
        np.testing.assert_array_equal(numpy(model.task_weighting.loss_weights), 1.0)
