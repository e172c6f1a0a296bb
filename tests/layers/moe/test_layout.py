import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_multimodel.layers import expert_layout_map


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of a process with four devices: side -> name -> array."""
    file = tmp_path_factory.mktemp("sharded") / "results.npz"
    command = [sys.executable, "-m", "tests.layers.moe.sharded_experts", str(file)]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, check=True, env=environment)
    sides = {"sharded": {}, "alone": {}}
    for name, value in np.load(file).items():
        side, _, name = name.partition("/")
        sides[side][name] = value
    return sides


def kinds(parts):
    return {path: tuple(n) for path, n in parts.items() if path.startswith("parts/")}


@pytest.mark.slow
def test_every_expert_kernel_is_spread_and_nothing_else(results):
    sharded, alone = kinds(results["sharded"]), kinds(results["alone"])
    assert sharded.keys() == alone.keys() and len(sharded) >= 11
    for path, (places, experts) in sharded.items():
        if "expert_kernel" in path:
            expected = {"model": (4, 1), "two_axes": (2, 4)}.get(path.split("/")[1], (4, 2))
            assert (places, experts) == expected and alone[path][0] == 1, path
        else:
            assert places == 1, path
    assert sum("shared_kernel" in path for path in sharded) == 2
    assert sum("expert_kernel" in path for path in sharded) == 5 + 2 + 8


@pytest.mark.slow
def test_so_is_what_the_optimizer_keeps_for_them(results):
    kept = [path for path in kinds(results["sharded"]) if "momentum" in path]
    assert len(kept) == 4 and all("expert_kernel" in path for path in kept)  # of two layers


@pytest.mark.slow
def test_outputs_gradients_and_training_are_those_of_one_device(results):
    names = [name for name in results["alone"] if not name.startswith("parts/")]
    assert any("/0" in name for name in names) and "model/loss" in names
    for name in names:
        expected = results["alone"][name]
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(
            results["sharded"][name], expected, atol=1e-4 * scale, err_msg=name
        )


def test_a_mesh_of_two_axes_is_warned_of():
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), [f"cpu:{i}" for i in range(4)])
    with pytest.warns(UserWarning, match=r"several devices on more axes than 'model'.*'batch': 2"):
        expert_layout_map(mesh)


def test_the_axis_must_exist():
    mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"), ["cpu:0"])
    with pytest.raises(ValueError, match=r"`axis` must .*\['batch', 'model'\].*axis='experts'"):
        expert_layout_map(mesh, axis="experts")
    assert list(expert_layout_map(mesh, axis="batch").values())[0].axes == ("batch", None, None)
