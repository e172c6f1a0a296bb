"""The benchmark for accelerators runs on a CPU, and rows are learned as the one of rows says."""

import argparse
import importlib.util
import json
import pathlib
import sys

import keras
import pytest

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its data are TensorFlow's")
def test_parity_turned_round_by_a_word_is_learned_from_both_parts():
    """An exclusive-or: neither the picture of a digit nor the word says anything alone."""
    found = load("rows").xor(epochs=10)
    assert found[True, True] > 0.95
    assert abs(found[True, False] - 0.5) < 0.1 and abs(found[False, True] - 0.5) < 0.1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it starts all backends itself")
def test_accelerator_quick(tmp_path, monkeypatch, eagerly):
    script = load("accelerator")
    in_a_process = script.run

    def run(line, quick, seconds):
        """Measures TensorFlow here, since it is imported already."""
        part, backend, dtype, jit = line
        if backend != "tensorflow":
            return in_a_process(line, quick, seconds)
        head = {"part": part, "backend": backend, "dtype": dtype, "jit": jit}
        return [{**head, **row} for row in script.PARTS[part](quick, jit)]

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the script adds the folder of the examples
    script.main(argparse.Namespace(quick=True, minutes=8.0, folder=tmp_path))
    report = json.loads((tmp_path / "accelerator.json").read_text())
    assert [row.get("error") for row in report["rows"] if "error" in row] == []
    parts = {row["part"] for row in report["rows"]}
    assert parts == {"eight_tasks", "experts", "generation", "model_2017"}
    assert {row["backend"] for row in report["rows"] if row["part"] == "eight_tasks"} == {
        "tensorflow",
        "jax",
    }
    for row in report["rows"]:
        assert row["step_ms"] > 0 and row["peak_mib"] > 0
    table = (tmp_path / "accelerator.md").read_text()
    assert table.count("\n| ") == len(report["rows"]) + 2
