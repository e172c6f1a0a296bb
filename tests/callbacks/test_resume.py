import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data
from keras_multimodel.callbacks import Resume
from keras_multimodel.data import schedules
from keras_multimodel.layers import ConvBlock, MoELayer
from keras_multimodel.weighting import DWA
from tests.models.small_models import HIDDEN_DIM, build, ids, make_tasks

EPOCHS = 2
MODES = {
    "joint": {"batch_size": 6},  # 5 steps in an epoch
    "steps": {"batch_size": 6, "steps": 3},
    "one task": {"batch_size": 4, "schedule": lambda: schedules.Temperature(3.0)},  # 6 steps
    "adaptive": {
        "batch_size": 3,
        "steps": 7,
        "schedule": lambda: schedules.Adaptive(decay=0.5, window=4),
    },
}


class Cut(keras.callbacks.Callback):
    """Ends training after a number of steps, as if the machine had failed."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_train_batch_end(self, batch, logs=None):
        self.after -= 1
        if self.after == 0:
            raise InterruptedError


def examples():
    rng = np.random.default_rng(0)
    text = ids(rng, rng.integers(2, 6, 14), 11)
    sets = {
        "copy": {"inputs": text, "targets": text},
        "digits": {
            "inputs": rng.normal(size=(7, 8, 8, 1)).astype("float32"),
            "targets": rng.integers(0, 3, 7),
        },
    }
    return {name: tf.data.Dataset.from_tensor_slices(arrays) for name, arrays in sets.items()}


def make_model(scope=contextlib.nullcontext, moe="noisy"):
    """Returns a compiled model with dropout, and noise in its router."""
    if moe == "noisy":
        moe = MoELayer(HIDDEN_DIM, num_experts=4, top_k=2)
    with scope():
        model = build(
            make_tasks("copy", "digits"),
            conv_block=ConvBlock(HIDDEN_DIM, (3, 3), dropout=0.3),
            moe=moe,
            attention_block=None,
            num_encoder_blocks=1,
            num_mixer_blocks=0,
            num_decoder_blocks=0,
        )
        model.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    return model


def all_variables(model):
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


def with_first_values(model):
    """Returns the model and the first values of its variables, to be used for many trainings."""
    model.make_variables()
    return model, [keras.ops.convert_to_numpy(v) for v in all_variables(model)]


@pytest.fixture(scope="module")
def model():
    return with_first_values(make_model())


def fresh(model, seed):
    """Gives a model its first values, or if there is a seed others, as in a fresh process."""
    model, values = model
    random = np.random.default_rng(seed)
    for variable, value in zip(all_variables(model), values, strict=True):
        # The learning rate is an argument: with another one, training would not be the same.
        changes = seed and variable.name != "learning_rate"
        changed = value + random.integers(1, 5) if changes else value
        variable.assign(changed.astype(value.dtype))
    return model


def make(mode, **changes):
    """Returns a mixture and its position."""
    position = data.Position()
    arguments = {**MODES[mode], **changes}
    if "schedule" in arguments:
        arguments["schedule"] = arguments["schedule"]()
    return data.mix(examples(), **arguments, position=position), position


@functools.cache
def held_out():
    """Returns validation data, in the same order each time that it is read."""
    return data.mix(examples(), batch_size=4, shuffle=False, steps=1)


def train(model, path, mode, cut=None, save_freq="epoch", epochs=EPOCHS):
    """Trains; returns the variables and the history, or None if it was cut."""
    mixed, position = make(mode)
    callbacks = [Resume(path, position, save_freq=save_freq)]
    if isinstance(position.schedule, schedules.Adaptive):
        callbacks.insert(0, position.schedule)
    if cut is not None:
        callbacks.append(Cut(cut))
    try:
        history = model.fit(
            mixed, epochs=epochs, callbacks=callbacks, validation_data=held_out(), verbose=0
        )
    except InterruptedError:
        return None
    weights = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v) for v in weights], history.history


def assert_same(result, expected):
    for one, other in zip(result[0], expected[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert result[1].keys() == expected[1].keys()
    for name, values in result[1].items():
        whole = expected[1][name][-len(values) :]
        np.testing.assert_array_equal(values, whole, err_msg=name)


@pytest.fixture(scope="module")
def uncut(model, tmp_path_factory):
    """Returns a function from a mode to its training without a cut."""
    return functools.cache(
        lambda mode: train(fresh(model, 0), tmp_path_factory.mktemp("uncut"), mode)
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Your input ran out of data")
@settings(max_examples=10, deadline=None)
@given(
    mode=st.sampled_from(sorted(MODES)),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=2),
    save_freq=st.sampled_from(["epoch", 1, 2, 4]),
)
def test_a_run_cut_at_any_step_ends_as_the_uncut_run(
    model, uncut, tmp_path_factory, mode, cuts, save_freq
):
    path = tmp_path_factory.mktemp("cut")
    # What runs before the first save starts with the first values, which a seed would give.
    saved = False
    for number, cut in enumerate([*cuts, None]):
        result = train(fresh(model, number if saved else 0), path, mode, cut, save_freq)
        saved = (path / "state.npz").exists()
        if result is not None:
            break
    assert_same(result, uncut(mode))


@pytest.mark.slow
def test_another_process(tmp_path):
    model = with_first_values(make_model(moe=None))
    expected = train(fresh(model, 0), tmp_path / "uncut", "steps")
    assert train(fresh(model, 0), tmp_path / "cut", "steps", cut=5, save_freq=2) is None
    assert_same(train(make_model(moe=None), tmp_path / "cut", "steps"), expected)


@pytest.mark.slow
def test_two_replicas(tmp_path, strategy):
    model = with_first_values(make_model(strategy.scope, moe=None))
    expected = train(fresh(model, 0), tmp_path / "uncut", "steps")
    assert train(fresh(model, 0), tmp_path / "cut", "steps", cut=5, save_freq=2) is None
    assert_same(train(fresh(model, 1), tmp_path / "cut", "steps"), expected)


@pytest.mark.slow
def test_a_training_that_has_ended_goes_on_with_more_epochs_only(model, uncut, tmp_path):
    values, history = train(fresh(model, 0), tmp_path, "joint", epochs=1)
    assert [len(values) for values in history.values()] == [1] * len(history)
    again, history = train(fresh(model, 1), tmp_path, "joint", epochs=1)
    assert history == {}
    for one, other in zip(values, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert_same(train(fresh(model, 2), tmp_path, "joint"), uncut("joint"))


@pytest.mark.slow
def test_an_error_in_a_resumed_training_leaves_nothing_behind(model, uncut, tmp_path):
    assert train(fresh(model, 0), tmp_path / "cut", "joint", cut=7) is None
    assert train(fresh(model, 1), tmp_path / "cut", "joint", cut=1) is None  # in the second epoch
    assert_same(train(fresh(model, 0), tmp_path / "other", "joint"), uncut("joint"))
    trained = fresh(model, 1)
    assert train(trained, tmp_path / "cut", "joint", cut=1) is None
    assert trained.fit(make("joint")[0], epochs=2, verbose=0).epoch == [0, 1]  # without Resume


def test_a_cut_while_saving_loses_nothing(model, uncut, tmp_path, monkeypatch):
    def broken(file, **arrays):
        file.write(b"half of it")
        raise InterruptedError

    assert train(fresh(model, 0), tmp_path, "joint", cut=7) is None
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", broken)
        assert train(fresh(model, 1), tmp_path, "joint", save_freq=1) is None
    assert_same(train(fresh(model, 2), tmp_path, "joint"), uncut("joint"))


class Watch(keras.callbacks.Callback):
    """Notes every moment in which training seems to have been told to stop, and may tell so."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.stop_after = stop_after
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.note()
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after == 0:
                self.model.stop_training = True

    def note(self, *arguments, **options):
        if self.model.stop_training:
            self.seen.append(arguments)

    on_epoch_begin = on_epoch_end = on_test_begin = on_test_end = on_train_batch_begin = note


def fit(model, path, callbacks=(), epochs=4, cut=None, before=True):
    """Trains with `callbacks` before or behind `Resume`."""
    mixed, position = make("joint")
    with_state = [callback for callback in callbacks if hasattr(callback, "get_state")]
    resume = [Resume(path, position, save_freq=1, callbacks=with_state)]
    callbacks = [*callbacks, *resume] if before else [*resume, *callbacks]
    arguments = {"epochs": epochs, "validation_data": held_out(), "verbose": 0}
    if cut is not None:
        callbacks.append(Cut(cut))
        with pytest.raises(InterruptedError):
            model.fit(mixed, callbacks=callbacks, **arguments)
        return None
    history = model.fit(mixed, callbacks=callbacks, **arguments)
    weights = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v) for v in weights], history.history


class Stopping(keras.callbacks.EarlyStopping):
    """Keras' own, with its state."""

    def get_state(self):
        best = np.nan if self.best is None else self.best
        return {"best": np.array(best), "wait": np.array(self.wait)}

    def set_state(self, state):
        best = float(state["best"])
        self.best, self.wait = None if np.isnan(best) else best, int(state["wait"])


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Your input ran out of data")
@pytest.mark.parametrize("cut, before", [(2, True), (2, False), (8, True)])
def test_early_stopping_ends_a_resumed_training_as_the_uncut_one(model, tmp_path, cut, before):
    """The loss falls, and is to rise: training ends with the second of four epochs."""

    def stopping():
        kind = Stopping if before else keras.callbacks.EarlyStopping
        return [kind("loss", mode="max", patience=1)]

    expected = fit(fresh(model, 0), tmp_path / "uncut", stopping(), before=before)
    assert len(expected[1]["loss"]) == 2
    fit(fresh(model, 0), tmp_path / "cut", stopping(), cut=cut, before=before)
    assert_same(fit(fresh(model, 1), tmp_path / "cut", stopping(), before=before), expected)


@pytest.mark.parametrize("before", [True, False])
def test_no_callback_takes_the_end_of_the_epoch_that_was_cut_for_that_of_training(
    model, tmp_path, before
):
    fit(fresh(model, 0), tmp_path, cut=3)
    watch = Watch()
    _, history = fit(fresh(model, 1), tmp_path, [watch], epochs=2, before=before)
    assert watch.seen == [] and len(history["loss"]) == 2


@pytest.mark.parametrize("before", [True, False])
def test_a_callback_may_end_training_with_the_last_step_of_the_epoch_that_was_cut(
    model, tmp_path, before
):
    fit(fresh(model, 0), tmp_path, cut=3)
    watch = Watch(stop_after=2)  # of five steps two are left
    _, history = fit(fresh(model, 1), tmp_path, [watch], before=before)
    assert len(history["loss"]) == 1 and watch.seen


class Counter(keras.callbacks.Callback):
    """A user's callback with a state of its own."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1

    def get_state(self):
        return {"count": np.array(self.count)}

    def set_state(self, state):
        self.count = int(state["count"])


def test_the_state_of_other_callbacks(model, tmp_path):
    for total in (5, 10):
        counter = Counter()
        mixed, position = make("joint")
        callbacks = [counter, Resume(tmp_path, position, callbacks=[counter])]
        fresh(model, total).fit(mixed, epochs=total // 5, callbacks=callbacks, verbose=0)
        assert counter.count == total


def test_states_that_do_not_fit(model, tmp_path):
    train(fresh(model, 0), tmp_path, "joint", epochs=1)

    def fit(mixed, position, model=model[0]):
        model.fit(mixed, callbacks=[Resume(tmp_path, position)], verbose=0)

    with pytest.raises(ValueError, match="`position` must be that of .*seed=3 instead of seed=0"):
        fit(*make("joint", seed=3))
    with pytest.raises(ValueError, match="`position` must be that of .*steps=3 instead of steps=5"):
        fit(*make("steps"))
    with pytest.raises(ValueError, match="`position` must be that of .*rows="):
        fit(*make("joint", batch_size=8, steps=5))
    smaller = build(make_tasks("copy", "digits"), moe=None, attention_block=None)
    smaller.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    with pytest.raises(ValueError, match=r"same model and .* other model variables. Received: \d+"):
        fit(*make("joint"), model=smaller)
    path = tmp_path / "state.npz"
    whole = path.read_bytes()
    joint = make("joint")
    for damaged in (whole[: len(whole) // 2], b"", b"nonsense", whole[:900] + b"?" + whole[901:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="`directory` must hold a whole state .*state.npz"):
            fit(*joint)


def test_errors(model, tmp_path):
    mixed, position = make("joint")
    with pytest.raises(ValueError, match="`position` must be a `kmm.data.Position`. .*=None"):
        Resume(tmp_path, None)
    for save_freq in (0, 1.5, "batch"):
        with pytest.raises(ValueError, match=f"`save_freq` must be .*save_freq={save_freq!r}"):
            Resume(tmp_path, position, save_freq=save_freq)
    with pytest.raises(ValueError, match="`callbacks` must have methods .*Received: History"):
        Resume(tmp_path, position, callbacks=[keras.callbacks.History()])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`directory` must be a directory. Received: .*file"):
        Resume(tmp_path / "file", position)
    for bad in (tmp_path / "file" / "x", "/dev/null/x", ""):
        with pytest.raises(ValueError, match="`directory` must be a directory. Received: "):
            Resume(bad, position)
    with pytest.raises(ValueError, match="`fit` must read the mixture .*Received: 2 steps"):
        resume = Resume(tmp_path, position)
        model[0].fit(mixed.repeat(), steps_per_epoch=2, callbacks=[resume], verbose=0)
    with pytest.raises(ValueError, match="`position` must be given to `kmm.data.mix` too"):
        model[0].fit(mixed, callbacks=[Resume(tmp_path, data.Position())], verbose=0)
    assert not (tmp_path / "state.npz").exists()


def test_a_directory_that_went_bad_is_found_before_the_first_step(model, tmp_path):
    mixed, position = make("joint")
    steps = Counter()
    callbacks = [steps, Resume(tmp_path / "run", position)]
    (tmp_path / "run").rmdir()
    (tmp_path / "run").symlink_to(tmp_path / "nowhere" / "x")
    with pytest.raises(ValueError, match="`directory` must be a directory"):
        model[0].fit(mixed, callbacks=callbacks, verbose=0)
    assert steps.count == 0


@pytest.mark.slow
@pytest.mark.parametrize("cut", [7, 11])  # in the second epoch of five steps, and in the third
def test_the_epochs_of_a_task_weighting_end_as_without_a_cut(tmp_path, cut):
    weighed = make_model(moe=None)
    weighed.compile(keras.optimizers.SGD(0.02, momentum=0.9), task_weighting=DWA(0.1))
    weighed = with_first_values(weighed)
    expected = fit(fresh(weighed, 0), tmp_path / "uncut")
    assert np.ptp(expected[1]["copy_weight"]) > 1e-3
    for save_freq in ("epoch", 1):
        path = tmp_path / f"cut {save_freq}"
        mixed, position = make("joint")
        callbacks = [Resume(path, position, save_freq=save_freq), Cut(cut)]
        with pytest.raises(InterruptedError):
            fresh(weighed, 0).fit(mixed, epochs=4, callbacks=callbacks, verbose=0)
        assert_same(fit(fresh(weighed, 1), path), expected)
