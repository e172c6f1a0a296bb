"""Property 7: with equal weights, every layer and the whole model give the same everywhere."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import backend_outputs, catalog

BACKENDS = ("tensorflow", "jax", "torch")
OTHERS = [name for name in BACKENDS if name != keras.backend.backend()]


MODELS = pytest.param("models", marks=pytest.mark.slow)
of_models = pytest.mark.parametrize("part", [MODELS], indirect=True)


@pytest.fixture(scope="module", params=["layers", MODELS])
def part(request):
    return request.param


@pytest.fixture(scope="module")
def here(part):
    return backend_outputs.outputs(part)


@pytest.fixture(scope="module")
def processes(tmp_path_factory, part):
    """Starts a process for each of the other backends, all at once."""
    started = {}
    for backend in OTHERS:
        path = tmp_path_factory.mktemp(backend) / "outputs.npz"
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "CUDA_VISIBLE_DEVICES": "-1",
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        command = [sys.executable, "-m", "tests.backend_outputs", part, str(path)]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started[backend] = process, path
    yield started
    for process, _ in started.values():
        process.kill()


@pytest.fixture(scope="module", params=OTHERS)
def there(request, processes, here):  # after `here`, so that all work at once
    process, path = processes[request.param]
    log = process.communicate()[0]
    assert process.returncode == 0, log[-3000:]
    return dict(np.load(path))


def test_7_another_backend_gives_the_same(there, here, part):
    expected = {
        "layers": {*catalog.CATALOG, "moe/noisy_top_k/0"},
        "models": {"model/copy", "training"},
    }
    assert set(there) == set(here) >= expected[part]
    names = set(here) - {"training"}  # see the next test
    differences = {name: _difference(here[name], there[name]) for name in names}
    assert {name: d for name, d in differences.items() if not d <= 1e-4} == {}


@of_models
def test_twenty_steps_on_another_backend_have_the_same_losses(there, here):
    """Not to 1e-4: in twenty steps the last bits of a gradient become larger ones."""
    assert here["training"][-1] < here["training"][0] - 0.1  # they are no constants
    np.testing.assert_allclose(there["training"], here["training"], rtol=0, atol=1e-3)


@of_models
def test_another_backend_writes_the_same_with_and_without_caches(there):
    """And as `here`, says the test above."""
    prefix = "written/"
    found = {k.removeprefix(prefix): str(v) for k, v in there.items() if k.startswith(prefix)}
    assert len({str(output) for output in json.loads(found["greedy True"])}) == 3
    assert found["greedy True"] == found["greedy False"]
    assert found["long greedy True"] == found["long greedy False"] == found["long stream"]
    assert found["long beam True"] == found["long beam False"]


@of_models
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the others always compile")
def test_twenty_steps_under_xla_have_the_same_losses(here):
    (_, losses), *_ = backend_outputs.training(jit_compile=True)
    np.testing.assert_allclose(losses, here["training"], rtol=0, atol=1e-3)


def _difference(a, b) -> float:
    if a.dtype.kind == "U":
        return 0.0 if str(a) == str(b) else np.inf
    if a.shape != b.shape:
        return np.inf
    return float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))
