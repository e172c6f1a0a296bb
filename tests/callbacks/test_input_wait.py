import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel import callbacks


class Clock:
    """Time that passes only where a test says so: the measured shares are then exact."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(tf, "timestamp", self.timestamp)

    def sleep(self, seconds):
        self.now += seconds

    def timestamp(self):
        return tf.ensure_shape(tf.numpy_function(lambda: np.float64(self.now), [], "float64"), ())


class Slow(keras.layers.Layer):
    """Takes a known time in each training step."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def call(self, x):
        def sleep(values):
            time.sleep(self.seconds)
            return values

        y = tf.numpy_function(sleep, [x], tf.float32)
        return x + 0.0 * tf.stop_gradient(tf.ensure_shape(y, x.shape))


def make_model(step_seconds, **arguments):
    model = keras.Sequential([keras.Input((2,)), Slow(step_seconds), keras.layers.Dense(1)])
    model.compile("sgd", "mse", **arguments)
    return model


def make_data(batch_seconds, steps=9):
    def slow(index):
        time.sleep(batch_seconds)
        return np.float32(index)

    def example(index):
        value = tf.ensure_shape(tf.numpy_function(slow, [index], tf.float32), ())
        return tf.fill((1, 2), value), tf.fill((1, 1), value)

    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return tf.data.Dataset.range(steps).map(example).with_options(options)


def fit(model, dataset, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback = callbacks.InputWait(threshold=0.5)
        logs = model.fit(dataset, callbacks=[callback], verbose=0, **arguments).history
    return logs, [str(w.message) for w in caught if "Training waited" in str(w.message)]


@pytest.mark.parametrize("arguments", [{}, {"run_eagerly": True}], ids=str)
def test_slow_and_fast_input(monkeypatch, arguments):
    Clock(monkeypatch)
    slow, warned = fit(make_model(1.0, **arguments), make_data(4.0), epochs=2)
    np.testing.assert_allclose(slow["input_wait"], 0.8)
    assert len(warned) == 1 and "80% of epoch 1" in warned[0]
    fast, warned = fit(make_model(4.0, **arguments), make_data(1.0), epochs=2)
    np.testing.assert_allclose(fast["input_wait"], 0.2)
    assert not warned


def test_several_steps_in_one_execution(monkeypatch):
    Clock(monkeypatch)
    logs, warned = fit(make_model(1.0, steps_per_execution=3), make_data(4.0), epochs=2)
    # A step may run while the next batch is waited for.
    assert all(0.8 - 1e-6 <= share <= 1.0 for share in logs["input_wait"])
    assert len(warned) == 1


def test_fast_input_of_several_steps_in_one_execution():
    logs, warned = fit(make_model(0.1, steps_per_execution=3), make_data(0.02), epochs=2)
    assert 0.05 < logs["input_wait"][1] < 0.4
    assert not warned


def test_a_prefetched_input_is_not_waited_for():
    logs, _ = fit(make_model(0.1), make_data(0.05).prefetch(2), epochs=2)
    assert logs["input_wait"][1] < 0.25


def test_validation_and_other_callbacks_are_not_waiting(monkeypatch):
    Clock(monkeypatch)
    pause = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(1.0))
    watching = [callbacks.InputWait(threshold=1.0), pause]
    arguments = {"epochs": 2, "callbacks": watching, "verbose": 0}
    data, slow = make_data(1.0), make_data(100.0, steps=4)
    logs = make_model(2.0).fit(data, validation_data=slow, **arguments).history
    # Of the first epoch the pause after the first step, which compiles, counts alone.
    np.testing.assert_allclose(logs["input_wait"], [8 / 33, 9 / 36])


@pytest.mark.parametrize("arguments", [{}, {"steps_per_execution": 2}], ids=str)
def test_training_sees_the_same_elements(arguments):
    def weights(callbacks):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", **arguments)
        data = tf.data.Dataset.range(6).shuffle(6, seed=1).batch(1)
        data = data.map(lambda i: (tf.ones((1, 2)) / tf.cast(i + 1, "float32"), tf.ones((1, 1))))
        history = model.fit(data, epochs=2, callbacks=callbacks, verbose=0).history
        model.fit(data.repeat(), epochs=2, steps_per_epoch=4, callbacks=callbacks, verbose=0)
        return history["loss"], model.get_weights()

    timed, plain = weights([callbacks.InputWait()]), weights([])
    assert timed[0] == plain[0]
    np.testing.assert_array_equal(timed[1][0], plain[1][0])


def test_the_step_is_traced_once_and_given_back():
    traces = []

    class Counted(keras.Model):
        def train_step(self, data):
            traces.append(1)
            return super().train_step(data)

    inputs = keras.Input((2,))
    model = Counted(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    data = make_data(0.0)
    fit(model, data, epochs=3)
    step = model.train_function
    fit(model, data, epochs=2)
    assert len(traces) == 1
    assert model.train_function is step
    model.fit(data, verbose=0)


def test_after_a_training_that_was_broken_off():
    def stop(batch, logs):
        raise KeyboardInterrupt

    model = make_model(0.0)
    broken = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        model.fit(make_data(0.0), callbacks=[callbacks.InputWait(), broken], verbose=0)
    logs, _ = fit(model, make_data(0.0), epochs=2)
    assert len(logs["input_wait"]) == 2


def test_unknown_size_ends_as_without():
    data = make_data(0.0).filter(lambda *_: True)
    with pytest.warns(UserWarning, match="ran out of data"):
        logs = (
            make_model(0.0)
            .fit(data, epochs=2, callbacks=[callbacks.InputWait(1.0)], verbose=0)
            .history
        )
    assert len(logs["input_wait"]) == 2


def test_one_step_is_not_measured():
    logs, _ = fit(make_model(0.0), make_data(0.0, steps=1))
    assert "input_wait" not in logs


def test_under_a_strategy_it_says_that_it_cannot_measure(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensor_slices((np.ones((8, 2)), np.ones((8, 1)))).batch(2)
    with pytest.warns(UserWarning, match="cannot measure under a distribution strategy"):
        logs = model.fit(data, callbacks=[callbacks.InputWait()], verbose=0).history
    assert "input_wait" not in logs


def test_error():
    with pytest.raises(ValueError, match="`threshold` must be from 0 to 1. .*threshold=2"):
        callbacks.InputWait(threshold=2)


class Asleep(keras.layers.Layer):
    """Takes some time in each eager call, on any backend."""

    def call(self, x):
        time.sleep(0.05)
        return x


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="test_other_backends.py runs it on the others"
)
def test_slow_and_fast_input_of_other_backends(monkeypatch):
    Clock(monkeypatch)
    model = keras.Sequential([keras.Input((2,)), Asleep(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    shares = []
    for seconds in (1.0, 0.0):
        callback = callbacks.InputWait(threshold=1.0)
        data = make_data(seconds, steps=4)
        history = model.fit(data, epochs=2, callbacks=[callback], verbose=0).history
        shares.append(history["input_wait"][1])
    assert shares[0] > 0.5 and shares[1] < 0.2
