import importlib.util
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel.callbacks import ExpertUse, expert_use
from keras_multimodel.layers import FeedForward, MoELayer
from tests.callbacks.event_files import events
from tests.models.small_models import HIDDEN_DIM, build, make_batch, make_tasks, set_weights
from tests.references import array

TASKS = ("copy", "digits", "topic")
LENGTHS = (6, 3, 5)
LAYERS = {"encoder_experts", "decoder_experts"}


@pytest.fixture(scope="module")
def model():
    return set_weights(build(make_tasks(*TASKS), encoder_groups=[TASKS]))


@pytest.fixture
def batches(model):
    return [make_batch(model.tasks.values(), LENGTHS, seed) for seed in (0, 1)]


def routed(model, task, x):
    """Layer -> tokens by expert, from the indices that the routers return."""
    counts = {}
    for side in ("encoder", "decoder"):
        router = getattr(model.body, side).experts.router
        original, seen = router.call, []
        router.call = lambda *a, original=original, seen=seen, **k: (
            seen.append(original(*a, **k)) or seen[-1]
        )
        model.task_model(task)({task: x[task]}, training=False)
        router.call = original
        seen = [array(routing.indices).astype(int).ravel() for routing in seen]
        seen = [indices for indices in seen if indices.size]
        if seen:
            counts[f"{side}_experts"] = np.bincount(seen[-1], minlength=5)[:4]
    return counts


def test_counts_what_the_routers_choose(model, batches):
    use = expert_use(model, batches)
    assert set(use) == LAYERS
    assert set(use["encoder_experts"]) == set(TASKS) and set(use["decoder_experts"]) == {"copy"}
    for task in TASKS:
        for layer, counts in routed(model, task, batches[0][0]).items():
            if task in use[layer]:
                np.testing.assert_array_equal(use[layer][task], counts)
    # Two experts a token: 6 + 3 + 5 tokens; three images of (8 / 2)^2 positions; no padding.
    totals = {task: int(counts.sum()) for task, counts in use["encoder_experts"].items()}
    assert totals["copy"] == totals["topic"] == 2 * sum(LENGTHS)
    assert totals["digits"] % 6 == 0 and totals["digits"] > 0
    assert len({tuple(counts) for counts in use["encoder_experts"].values()}) > 1


def test_the_tasks_add_up_to_what_the_stacked_model_counts(model, batches):
    model.compile()
    x, y = batches[0]
    experts = [model.body.encoder.experts, model.body.decoder.experts]
    model.evaluate(x, y, batch_size=len(LENGTHS), verbose=0)
    together = [array(layer.expert_tokens) for layer in experts]
    use = expert_use(model, batches)
    for name, counts in zip(("encoder_experts", "decoder_experts"), together):
        np.testing.assert_array_equal(sum(use[name].values()), counts)
    for layer, counts in zip(experts, together):
        np.testing.assert_array_equal(array(layer.expert_tokens), counts)


def test_reads_several_batches_and_data_sets_of_single_tasks(model, batches):
    both = expert_use(model, batches, batches=2)
    apart = [expert_use(model, [batch]) for batch in batches]
    by_task = {
        task: [({task: x[task]}, {task: y[task]}) for x, y in batches] for task in model.tasks
    }
    again = expert_use(model, by_task, batches=2)
    for layer in LAYERS:
        for task, counts in both[layer].items():
            np.testing.assert_array_equal(counts, sum(use[layer][task] for use in apart))
            np.testing.assert_array_equal(counts, again[layer][task])


def test_a_task_without_rows_uses_no_expert(model, batches):
    x, y = batches[0]
    empty = {**x, "topic": {"inputs": x["topic"]["inputs"][:0]}}
    use = expert_use(model, [(empty, y)])
    np.testing.assert_array_equal(use["encoder_experts"]["topic"], np.zeros(4))
    assert use["encoder_experts"]["copy"].sum() == 28


def fit(callbacks, epochs=3, rate=0.0, **arguments):
    keras.utils.set_random_seed(0)
    model = build(make_tasks("copy", "topic"), conv_block=None, attention_block=None, **arguments)
    model.compile(keras.optimizers.SGD(rate))
    x, y = make_batch(model.tasks.values(), LENGTHS)
    options = {"batch_size": len(LENGTHS), "epochs": epochs, "verbose": 0}
    history = model.fit(x, y, validation_data=(x, y), callbacks=callbacks, **options).history
    return model, history


def data():
    return [make_batch(make_tasks("copy", "topic"), LENGTHS, seed=5)]


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Five epochs in which the gates stay zeros: without noise all take the first two experts."""
    folder = tmp_path_factory.mktemp("log")
    uses = {
        "logged": ExpertUse(data(), log_dir=folder, patience=2),
        "seldom": ExpertUse(data(), every=2, threshold=0.0, patience=1),
        "patient": ExpertUse(data(), patience=6),
    }
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        model, _ = fit(list(uses.values()), epochs=5)
    messages = [str(w.message) for w in record if "experts of" in str(w.message)]
    return SimpleNamespace(model=model, folder=folder, messages=messages, **uses)


@pytest.mark.slow
def test_training_is_the_same_with_it():
    plain, expected = fit([], epochs=2, rate=0.1)
    watched, history = fit([ExpertUse(data(), threshold=0.0)], epochs=2, rate=0.1)
    assert history == expected and "encoder_experts_min_load" in history
    for weight, other in zip(watched.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(array(weight), array(other), err_msg=weight.path)


@pytest.mark.slow
def test_measures_every_so_many_epochs_and_the_last(watched):
    use = watched.seldom
    assert list(watched.logged.history) == [0, 1, 2, 3, 4]
    assert list(use.history) == [1, 3, 4] and use.latest is use.history[4]
    for layer, by_task in expert_use(watched.model, data()).items():
        assert set(use.latest[layer]) == set(by_task)
        for task, counts in by_task.items():
            np.testing.assert_array_equal(use.latest[layer][task], counts)
        np.testing.assert_array_equal(use.shares[layer], [2.0, 2.0, 0.0, 0.0])


def test_shows_nothing_before_the_first_measurement():
    use = ExpertUse(data())
    assert use.latest == {} and use.shares == {}


@pytest.mark.slow
def test_warns_once_of_dying_experts_and_neither_too_early_nor_above_the_threshold(watched):
    """One of the three callbacks warns, of each layer."""
    assert len(watched.messages) == 2
    for layer, message in zip(sorted(LAYERS, reverse=True), watched.messages):
        assert f"Of 4 experts of '{layer}'" in message and message.count("[2, 3]") == 1
        assert "less than 1.00% of their fair share of the tokens in the last 2" in message


def test_tensorboard_shows_the_use(watched):
    use, written = watched.logged, events(watched.folder)
    assert set(written) == {
        *(f"{kind}/{layer}" for kind in ("expert_use", "least_share") for layer in LAYERS),
        *(f"experts_used/encoder_experts/{task}" for task in ("copy", "topic")),
        "experts_used/decoder_experts/copy",
    }
    assert all(set(steps) == set(range(5)) for steps in written.values())
    for layer in LAYERS:
        assert written[f"least_share/{layer}"][1] == use.shares[layer].min() == 0.0
        width, height, png = written[f"expert_use/{layer}"][1][:3]
        image = tf.io.decode_png(png).numpy()
        assert image.shape == (int(height), int(width), 3) and image.std() > 10
    # All tokens take the same two experts, each half of the choices: exp(log 2).
    assert written["experts_used/encoder_experts/topic"][1] == pytest.approx(2.0)


def test_a_model_without_tasks_is_refused():
    with pytest.raises(ValueError, match="`model` must be a MultiModel.*of type Sequential"):
        expert_use(keras.Sequential([MoELayer(8, 4, 2)]), [])


def test_a_model_without_experts_is_refused():
    with pytest.raises(ValueError, match="`model` must have a `MoELayer` with `count_tokens=True`"):
        fit([ExpertUse(data())], moe=None)


@pytest.mark.parametrize(
    "moe", [FeedForward(HIDDEN_DIM, 8), MoELayer(HIDDEN_DIM, 4, 2, count_tokens=False)]
)
def test_a_model_that_counts_nothing_is_refused(moe):
    model = build(make_tasks("topic"), num_encoder_blocks=1, moe=moe)
    with pytest.raises(ValueError, match="Received: 'multi_model.*', which has none"):
        expert_use(model, data())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batches": 0}, "`batches` must be a positive integer. Received: batches=0"),
        ({"every": 1.5}, "`every` must be a positive integer. Received: every=1.5"),
        ({"patience": True}, "`patience` must be a positive integer. Received: patience=True"),
        ({"threshold": 1.5}, "`threshold` must be between 0 and 1. Received: threshold=1.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExpertUse(data(), **arguments)


def test_data_without_a_task_are_refused(model, batches):
    x, y = batches[0]
    with pytest.raises(ValueError, match=r"`data` must hold .* Received: none of \['topic'\]"):
        expert_use(model, {"copy": [(x, y)], "digits": [(x, y)]} | {"topic": []})
    with pytest.raises(ValueError, match=r"none of \['digits', 'topic'\]"):
        expert_use(model, [({"copy": x["copy"]}, None)])


def test_without_tensorboard(batches, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name)
    )
    ExpertUse(batches)
    with pytest.raises(ImportError, match="`log_dir` needs TensorBoard.*Received: log_dir='runs'"):
        ExpertUse(batches, log_dir="runs")


@pytest.mark.parametrize("name", ["file", "file/below", "dangling"])
def test_a_log_dir_that_cannot_be_a_directory_is_found_at_once(tmp_path, name):
    """TensorFlow opens it for the first measurement, after an epoch."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "x")
    with pytest.raises(ValueError, match="`log_dir` must be a directory. Received: log_dir="):
        ExpertUse(data(), log_dir=tmp_path / name)
