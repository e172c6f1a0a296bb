"""The KerasTuner example searches, and its best model can be loaded."""

import importlib.util
import pathlib

import keras
import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("keras_tuner")
EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "tune.py"


def test_a_search_of_two_trials(tmp_path):
    spec = importlib.util.spec_from_file_location("tune", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    eagerly = keras.backend.backend() == "tensorflow"  # no time to trace
    tuner = example.search(2, epochs=1, steps=2, folder=tmp_path, run_eagerly=eagerly)
    trials = tuner.oracle.get_best_trials(2)
    assert trials[0].score <= trials[1].score
    for trial in trials:
        logs = trial.metrics.metrics
        parts = [logs[f"val_{name}_log_perplexity"] for name in ("digit", "word")]
        total = sum(part.get_best_value() for part in parts)
        assert trial.score == pytest.approx(total, rel=1e-5)
    best = tuner.get_best_hyperparameters()[0]
    model = tuner.get_best_models()[0]
    assert model.body.hidden_dim == best.get("hidden_dim")
    assert (model.body.templates["moe"] is not None) == best.get("experts")
