"""Tests of single files that hold on every backend, run on the other ones."""

import os
import subprocess
import sys

import keras
import pytest

from tests.layers.test_alone import LAYERS

pytestmark = pytest.mark.slow

# In one process: it takes seconds to import a backend.
ALL = [
    "tests/callbacks/test_input_wait.py::test_slow_and_fast_input_of_other_backends",
    "tests/weighting/test_uncertainty.py::test_a_step_goes_down_the_gradient",
    "tests/weighting/test_dwa.py::test_fit_follows_the_losses_that_it_logs",
    "tests/weighting/test_pc_grad.py::test_refuses_other_backends",
]
# Each public layer in plain models, of two kinds, and two models more.
ALONE, NUM_ALONE = "tests/layers/test_alone.py", 2 * len(LAYERS) + 3
OF_JAX = [
    "tests/models/test_compile_guard.py::test_few_programs",
    "tests/generation/test_stepping.py::test_with_64_bits_of_jax",
]
TESTS = {"jax": [*ALL, *OF_JAX], "torch": ALL}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="one backend starts the others")
@pytest.mark.parametrize("backend", TESTS)
def test_passes_on(backend):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["CUDA_VISIBLE_DEVICES"] = "-1"
    plugins = ["-pno:cacheprovider", "-pno:nbmake"]
    command = [sys.executable, "-m", "pytest", *plugins, *TESTS[backend], ALONE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len(TESTS[backend]) + NUM_ALONE} passed" in done.stdout
