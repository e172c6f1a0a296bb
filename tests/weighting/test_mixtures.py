"""Every kind of mixture in `fit` and `evaluate`, on one device and on replicas."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel import data
from keras_multimodel.data import schedules
from tests.models.small_models import ids
from tests.weighting.toy import make_model

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strategies are TensorFlow's"
)
EPOCHS = 3
MODES = {
    "steps and position": lambda: {"batch_size": 8, "steps": 2, "position": data.Position()},
    "adaptive": lambda: {"batch_size": 4, "schedule": schedules.Adaptive(window=9), "steps": 4},
    "token budget and schedule": lambda: {"token_budget": 24, "schedule": schedules.Uniform()},
}


@pytest.fixture(scope="module", params=[1, 2])
def model(request, strategy):
    scope = strategy.scope() if request.param == 2 else contextlib.nullcontext()
    with scope:
        model = make_model()
        model.compile(keras.optimizers.SGD(0.01))
    return model


def examples():
    random = np.random.default_rng(0)
    text = tf.ragged.constant([row[row > 0] for row in ids(random, [5, 3, 4, 2, 6, 1, 2, 7], 11)])
    sets = {}
    for name, classes in (("a", [0, 1] * 4), ("b", [1, 0] * 4)):
        slices = tf.data.Dataset.from_tensor_slices((text, classes))
        sets[name] = slices.map(
            lambda row, label: {"inputs": tf.ensure_shape(row, [None]), "targets": label}
        )
    return sets


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_fit_trains_on_the_first_epochs_and_evaluate_on_the_next(model, monkeypatch, mode):
    begun = []
    begin = data.Position.begin

    def spy(position):
        found = begin(position)
        begun.append(found)
        return found

    monkeypatch.setattr(data.Position, "begin", spy)
    arguments = MODES[mode]()
    callbacks = [s for s in [arguments.get("schedule")] if isinstance(s, schedules.Adaptive)]
    mixed = data.mix(examples(), **arguments)
    history = model.fit(mixed, epochs=EPOCHS, callbacks=callbacks, verbose=0).history
    assert begun == [(epoch, 0) for epoch in range(EPOCHS)]
    assert np.all(np.isfinite(history["loss"])) and len(history["loss"]) == EPOCHS
    logs = model.evaluate(mixed, verbose=0, return_dict=True)
    assert begun[EPOCHS:] == [(EPOCHS, 0)] and np.isfinite(logs["loss"])
