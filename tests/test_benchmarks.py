"""The benchmark for accelerators runs on a CPU."""

import json
import pathlib
import subprocess
import sys

import keras
import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "accelerator.py"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it starts all backends itself")
def test_accelerator_quick(tmp_path):
    command = [sys.executable, str(SCRIPT), "--quick", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
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
