"""`Resume` overwrites nothing good, and resumes what other callbacks of `fit` count."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel.callbacks import Resume, StopOnDivergence
from keras_multimodel.callbacks.files import read_state
from keras_multimodel.data import Position, mix
from tests.callbacks.test_divergence import Broken
from tests.callbacks.test_identity import make_model
from tests.callbacks.test_resume import Cut

RNG = np.random.default_rng(0)
IDS, LABELS = RNG.integers(2, 11, (8, 3)).astype("int32"), RNG.integers(0, 3, 8)


@pytest.fixture(scope="module")
def model():
    model = make_model(["a"])
    return model, model.get_weights()


def fit(model, path, callbacks=(), epochs=3, loss=None, first=True, **arguments):
    """Trains two steps an epoch; returns the weights and how many epochs there were."""
    model, weights = model
    model.set_weights(weights)
    model.compile(keras.optimizers.Adam(0.01), loss=loss, run_eagerly=True)
    position = Position()
    examples = tf.data.Dataset.from_tensor_slices({"inputs": IDS, "targets": LABELS})
    train = mix({"a": examples}, batch_size=4, position=position)
    resume = Resume(path, position, **{"save_freq": 1, **arguments})
    callbacks = [resume, *callbacks] if first else [*callbacks, resume]
    history = model.fit(train, epochs=epochs, callbacks=callbacks, verbose=0).history
    return model.get_weights(), len(history.get("loss", []))


def assert_same(result, expected):
    for one, other in zip(result[0], expected[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", [[], [StopOnDivergence()]])
def test_a_training_that_diverged_resumes_from_the_last_good_step(model, tmp_path, callbacks):
    good = {"a": Broken(None, 10**9)}
    expected = fit(model, tmp_path / "uncut", loss=good)
    nan = Broken(lambda loss, logits: loss * np.nan, 4)  # calls: one to build, then one a step
    with pytest.raises(FloatingPointError, match="in step 1 of epoch 2: loss=nan"):
        fit(model, tmp_path / "cut", callbacks, loss={"a": nan})
    metadata, arrays = read_state(tmp_path / "cut" / "state.npz")
    assert (metadata["epoch"], metadata["step"]) == (1, 0)
    kept = [array for name, array in arrays.items() if name.startswith(("model/", "optimizer/"))]
    assert all(np.all(np.isfinite(array)) for array in kept)
    result = fit(model, tmp_path / "cut", callbacks, loss=good)
    assert result[1] == 2
    assert_same(result, expected)


@pytest.mark.slow
def test_a_state_from_which_training_diverges_at_once_gives_way(model, tmp_path):
    """The last step makes weights that are finite, and so large that the next loss explodes."""

    class Enlarge(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for weight in self.model.trainable_variables:
                weight.assign(1e6 * weight)

    def run(name, *callbacks, epochs=2):
        return fit(model, tmp_path / name, [StopOnDivergence(patience=1), *callbacks], epochs)

    expected = run("uncut")
    run("cut", Enlarge(), epochs=1)
    newest = (tmp_path / "cut" / "state.npz").read_bytes()
    with (
        pytest.raises(FloatingPointError, match="in step 1 of epoch 2: the loss of 'a' has been"),
        pytest.warns(UserWarning, match="from .*state.npz, which is now state.diverged.npz. The"),
    ):
        run("cut")
    assert (tmp_path / "cut" / "state.diverged.npz").read_bytes() == newest
    with pytest.warns(UserWarning, match="state.npz is missing. .* before it, state.1.npz"):
        assert_same(run("cut"), expected)


def test_weights_that_are_not_finite_are_not_written(model, tmp_path):
    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                weight = self.model.trainable_variables[0]
                weight.assign(keras.ops.ones(weight.shape) * np.inf)

    with pytest.raises(FloatingPointError, match="in step 2 of epoch 2: the gradient was not fin"):
        fit(model, tmp_path, [Break()], save_freq="epoch")
    assert read_state(tmp_path / "state.npz")[0]["epoch"] == 1


def test_a_damaged_state_gives_way_to_the_one_before(model, tmp_path):
    with pytest.raises(InterruptedError):
        fit(model, tmp_path / "cut", [Cut(4)], first=False)
    newest = tmp_path / "cut" / "state.npz"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    with pytest.warns(UserWarning, match="state.npz is damaged .* state before it, state.1.npz"):
        result = fit(model, tmp_path / "cut")
    assert_same(result, fit(model, tmp_path / "uncut"))
    for file in (tmp_path / "cut").glob("*.npz"):
        file.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="must hold a whole state .*delete the directory"):
        fit(model, tmp_path / "cut")


def callbacks_of_keras(path):
    options = {"monitor": "loss", "mode": "max"}  # the loss falls: no epoch is better
    return [
        keras.callbacks.ReduceLROnPlateau(patience=1, **options),
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True, **options),
        keras.callbacks.ModelCheckpoint(
            path / "best.weights.h5", save_best_only=True, save_weights_only=True, **options
        ),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("cut", [3, 6])
def test_callbacks_of_keras_go_on(model, tmp_path, cut):
    def run(name, *more):
        callbacks = [*callbacks_of_keras(tmp_path / name), *more]
        return fit(model, tmp_path / name, callbacks, epochs=9)

    expected = run("uncut")
    assert expected[1] == 4
    with pytest.raises(InterruptedError):
        run("cut", Cut(cut))
    assert_same(run("cut"), expected)
    best = [(tmp_path / name / "best.weights.h5").stat().st_size for name in ("cut", "uncut")]
    assert best[0] == best[1]
    again = run("cut")  # ended stays ended, with the best weights
    assert again[1] == 0
    assert_same(again, expected)


def test_a_callback_whose_state_is_no_array(model, tmp_path):
    class Bad(keras.callbacks.Callback):
        def get_state(self):
            return {"x": {}}

        def set_state(self, state):
            pass

    with pytest.raises(ValueError, match="must return a dict of arrays. Received: 'Bad 0/x'"):
        fit(model, tmp_path, [Bad()])


@pytest.mark.slow
def test_a_training_that_a_callback_stops_in_an_epoch_resumes_there(model, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    fit(model, tmp_path / "cut", [Stop()], save_freq="epoch")
    assert read_state(tmp_path / "cut" / "state.npz")[0]["step"] == 1
    assert_same(fit(model, tmp_path / "cut"), fit(model, tmp_path / "uncut"))
