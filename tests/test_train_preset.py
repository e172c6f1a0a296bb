"""The training of the preset is cut off and goes on, on a few examples of each task."""

import functools
import json
import pathlib

import keras
import pytest

import keras_multimodel as kmm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="the data is the same on every backend"
    ),
]
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.fixture
def train_preset(monkeypatch):
    """The module `examples/train_preset.py`, with eight examples of each task and few steps."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import train_preset

    load, make_tasks = kmm.datasets.load, train_preset.eight_tasks.make_tasks
    few = lambda name, split="train": load(name, split).take(8)  # noqa: E731
    monkeypatch.setattr(kmm.datasets, "load", few)
    monkeypatch.setattr(
        train_preset.eight_tasks,
        "make_tasks",
        lambda texts, vocabulary_size: make_tasks(texts, vocabulary_size // 15),
    )
    small = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    variant = functools.partial(kmm.MultiModel.from_variant, **small)
    monkeypatch.setattr(kmm.MultiModel, "from_variant", variant)
    monkeypatch.setattr(train_preset, "STEPS_PER_EPOCH", 1)
    return train_preset


def test_a_training_goes_on_where_it_was_cut(train_preset, tmp_path, monkeypatch, eagerly):
    class Cut(train_preset.Log):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if epoch == 0:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_preset, "Log", Cut)
        with pytest.raises(KeyboardInterrupt):
            train_preset.main(2, 1, tmp_path)
    assert not (tmp_path / "model.keras").exists()
    ids = keras.saving.load_model(tmp_path / "untrained.keras").tasks["en_de"].inputs.preprocessor
    train_preset.main(2, 1, tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    # The first epoch was over but not yet saved: it is done again, and gives the same.
    assert [logs["epoch"] for logs in log] == [1, 1, 2] and log[0] == log[1]
    assert log[-1]["learning_rate"] == pytest.approx(train_preset.LEARNING_RATE * 2 / 3)
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert len(model.tasks) == 8
    trained = model.tasks["en_de"].inputs.preprocessor
    assert trained.get_config() == ids.get_config()
