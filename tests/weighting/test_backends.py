"""The methods that need no gradients of single tasks work on every backend."""

import os
import subprocess
import sys

import keras
import pytest

TESTS = [
    "tests/weighting/test_uncertainty.py::test_a_step_goes_down_the_gradient",
    "tests/weighting/test_dwa.py::test_fit_follows_the_losses_that_it_logs",
    "tests/weighting/test_pc_grad.py::test_refuses_other_backends",
]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="one backend starts the others")
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_passes_on(backend):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "3 passed" in done.stdout
