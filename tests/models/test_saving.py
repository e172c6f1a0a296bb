"""A fitted model, saved, and read by a process that knows nothing but the package."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_multimodel import Task
from keras_multimodel.data.preprocessing.categories import CategoryPreprocessor
from keras_multimodel.data.preprocessing.text import train_text_preprocessor
from keras_multimodel.layers import CategoryModality, ImageModality, TextModality
from tests.models.small_models import HIDDEN_DIM, build, make_batch, max_difference, numpy_outputs

READER = """
import sys
import keras, numpy as np
import keras_multimodel
folder = sys.argv[1]
model = keras.saving.load_model(folder + "/model.keras", safe_mode=True)
arrays = np.load(folder + "/inputs.npz")
x = {}
for key in arrays.files:
    task, name = key.split(".")
    x.setdefault(task, {})[name] = arrays[key]
outputs = model.predict_on_batch(x)
texts = model.generate("mirror", ["one", "two three"], max_length=4)
labels = model.generate("digits", list(x["digits"]["inputs"]))
np.savez(folder + "/outputs.npz", texts=texts, labels=labels, **outputs)
"""


def make_tasks():
    words = train_text_preprocessor(["one two three four"] * 4, 14, "char", byte_fallback=False)
    text = TextModality(words.vocabulary_size, HIDDEN_DIM, preprocessor=words)
    names = CategoryPreprocessor(["zero", "one", "two"])
    return [
        Task("mirror", inputs=text, targets=text, max_target_length=6),
        Task(
            "digits",
            inputs=ImageModality(HIDDEN_DIM, (8, 8, 1), num_blocks=1),
            targets=CategoryModality(3, HIDDEN_DIM, preprocessor=names),
        ),
    ]


@pytest.fixture(scope="module")
def fitted():
    keras.utils.set_random_seed(1)
    model = build(make_tasks(), num_encoder_blocks=1, num_mixer_blocks=0)
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    x, y = make_batch(model.tasks.values(), (5, 4, 3, 6))
    history = model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    return model, x, y, history.history


@pytest.fixture(scope="module")
def reread(fitted, tmp_path_factory):
    """What this process and a fresh one make of the model."""
    model, x, _, _ = fitted
    here = {
        "texts": model.generate("mirror", ["one", "two three"], max_length=4),
        "labels": model.generate("digits", list(x["digits"]["inputs"])),
    }
    folder = tmp_path_factory.mktemp("saved")
    model.save(folder / "model.keras")
    arrays = {f"{task}.{key}": value for task, d in x.items() for key, value in d.items()}
    np.savez(folder / "inputs.npz", **arrays)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", READER, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, here, np.load(folder / "outputs.npz")


def test_5_a_fresh_process_predicts_the_same(fitted, reread):
    model, x, _, _ = fitted
    outputs = numpy_outputs(model(x, training=False))
    assert max_difference(outputs, reread[2]) < 1e-5


def test_5_a_fresh_process_generates_the_same(reread):
    _, here, there = reread
    assert all(isinstance(text, str) for text in here["texts"])
    assert set(here["labels"]) <= {"zero", "one", "two"}
    for name, outputs in here.items():
        assert list(there[name]) == outputs


@pytest.mark.slow
def test_5_a_loaded_model_goes_on_training_as_the_saved_one(fitted, reread):
    model, x, y, _ = fitted
    again = keras.saving.load_model(reread[0] / "model.keras")
    assert again.optimizer.iterations == model.optimizer.iterations
    for mine, theirs in zip(model.optimizer.variables, again.optimizer.variables):
        np.testing.assert_allclose(theirs, mine, rtol=1e-6)
    losses = [m.evaluate(x, y, batch_size=4, verbose=0, return_dict=True) for m in (model, again)]
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=1e-5), name


def test_5_weights_alone_come_back(fitted, reread):
    model, x, _, _ = fitted
    model.save_weights(reread[0] / "model.weights.h5")
    other = build(make_tasks(), num_encoder_blocks=1, num_mixer_blocks=0)
    other.load_weights(reread[0] / "model.weights.h5")
    outputs = numpy_outputs(other(x, training=False))
    assert max_difference(outputs, reread[2]) < 1e-5


def test_fit_reports_every_task(fitted):
    history = fitted[3]
    assert {"loss", "mirror_loss", "mirror_accuracy", "mirror_log_perplexity"} <= set(history)
    assert {"digits_loss", "digits_accuracy", "digits_top_5_accuracy"} <= set(history)
    assert history["loss"][1] < history["loss"][0]
