import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel.ablation import Study
from keras_multimodel.callbacks import TaskBoard, TensorBoardLog
from tests.callbacks.event_files import events
from tests.models.small_models import build, make_batch, make_tasks

TASKS = ("copy", "shorten", "topic")
LENGTHS = (6, 3)
EXAMPLE = (np.array([3, 4, 5, 1]), np.array([3, 1]))


def make():
    sizes = {"num_encoder_blocks": 0, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    model = build(make_tasks(*TASKS), conv_block=None, **sizes)
    model.compile("sgd", run_eagerly=True)  # nothing is traced for two steps
    return model


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("board"), make()
    x, y = make_batch(model.tasks.values(), LENGTHS)
    board = TaskBoard(folder, data=[(x, y)], examples={"copy": EXAMPLE}, every=2)
    history = model.fit(x, y, validation_data=(x, y), epochs=2, callbacks=[board], verbose=0)
    return folder, history.history


def test_measures_are_grouped_and_training_stands_beside_validation(fitted):
    folder, history = fitted
    train, validation = (events(folder / run) for run in ("train", "validation"))
    for tag, key in {
        "loss/copy": "copy_loss",
        "accuracy/topic": "topic_accuracy",
        "loss/all tasks": "loss",
        "experts/decoder_experts_max_load": "decoder_experts_max_load",
    }.items():
        for written, prefix in ((train, ""), (validation, "val_")):
            values = [float(written[tag][epoch]) for epoch in (0, 1)]
            np.testing.assert_allclose(values, history[f"{prefix}{key}"], rtol=1e-6)
    assert len(train) + len(validation) == len(history)


def test_figures_are_drawn_now_and_then(fitted):
    written = events(fitted[0] / "inside")
    layers = ("encoder_experts", "decoder_experts")
    experts = {f"{kind}/{x}" for kind in ("expert_use", "shared_experts") for x in layers}
    assert set(written) == experts | {"command_tokens", "attention/copy"}
    for steps in written.values():
        assert set(steps) == {0}  # of two epochs, the first
        image = tf.io.decode_png(steps[0][2]).numpy()
        assert image.shape[:2] == (int(steps[0][1]), int(steps[0][0])) and image.std() > 10


def test_a_logger_of_a_study_has_a_run_for_each_seed(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 2))

    def build(units=2):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    log = TensorBoardLog(tmp_path)
    options = {"metrics": ["loss"], "seeds": 2, "logger": log}
    data = ((x, x[:, :1]), (x, x[:, :1]))
    Study(build, data, {"two": {}, "a/../one": {"units": 1}}, fit={"epochs": 2}, **options).run()
    log.close()
    runs = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("events*")}
    assert runs == {f"{name}/seed {seed}" for name in ("two", "a/one") for seed in (1, 2)}
    for run in runs:
        assert set(events(tmp_path / run)["loss"]) == {0, 1}


def test_numbers_without_a_run_stand_in_the_folder(tmp_path):
    log = TensorBoardLog(tmp_path)
    log.log({"loss": 2.5, "../other/loss": 1.0}, step=3)
    assert float(events(tmp_path)["loss"][3]) == 2.5
    assert float(events(tmp_path / "other")["loss"][3]) == 1.0


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for kind in (TaskBoard, TensorBoardLog):
        with pytest.raises(ImportError, match="needs TensorBoard: `pip install.*log_dir='runs'"):
            kind("runs")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"every": 0}, "`every` must be a positive integer. Received: every=0"),
        ({"batches": 0}, "`batches` must be a positive integer. Received: batches=0"),
        ({"examples": {"copy": [3, 4]}}, r"`examples\['copy'\]` must be a tuple .*=\[3, 4\]"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskBoard(tmp_path, **arguments)


@pytest.mark.parametrize(
    "examples, message",
    [
        ({"other": EXAMPLE}, "`task` must be one of .*task='other'"),
        ({"topic": (EXAMPLE[0], None)}, "attention that task 'topic' passes"),
        ({"copy": (np.array([99]), EXAMPLE[1])}, "must be from 0 to 10. Received: from 99"),
    ],
)
def test_bad_examples_are_found_before_the_first_step(tmp_path, examples, message):
    model = make()
    x, y = make_batch(model.tasks.values(), LENGTHS)
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, callbacks=[TaskBoard(tmp_path, examples=examples)], verbose=0)
    assert int(model.optimizer.iterations) == 0
