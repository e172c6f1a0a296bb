"""Two replicas weigh their tasks as one device does, though they hold different examples."""

import contextlib

import keras
import numpy as np
import pytest

from keras_multimodel.weighting import DWA, GradNorm, PCGrad, Uncertainty
from tests.weighting.toy import make_batch, make_model, numpy

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strategies are TensorFlow's"
)


def train(scope, method, **arguments):
    """Returns the history of six steps, one an epoch, and the model."""
    import tensorflow as tf

    with scope:
        model = make_model(b=0.5)
        # With its usual epsilon Adam takes the sign of a gradient near 0, which is rounding.
        optimizer = keras.optimizers.Adam(0.01, epsilon=1e-3, global_clipnorm=0.5)
        model.compile(optimizer, task_weighting=method, **arguments)
    batches = tf.data.Dataset.from_tensor_slices(make_batch(8)).batch(4, drop_remainder=True)
    return model.fit(batches.repeat(3), steps_per_epoch=1, epochs=6, verbose=0).history, model


SLOW = [
    pytest.param(method, marks=pytest.mark.slow)
    for method in (DWA(0.2), GradNorm(), PCGrad(seed=0))
]


@pytest.mark.parametrize("method", [Uncertainty(), *SLOW])
def test_two_replicas_train_as_one(strategy, method):
    (one, mine), (two, theirs) = (
        train(contextlib.nullcontext(), method, run_eagerly=True),
        train(strategy.scope(), method),
    )
    assert one.keys() == two.keys() >= {"loss", "a_loss", "a_weight", "b_weight"}
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-5, err_msg=name)
    for variable, other in zip(mine.task_weighting.weights, theirs.task_weighting.weights):
        np.testing.assert_allclose(numpy(other), numpy(variable), rtol=1e-3, err_msg=variable.path)
