"""Two workers, processes on this machine, train as one process does."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tests import several_machines_worker as worker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="starts processes of both backends"
    ),
]


@pytest.fixture(scope="module", params=["tensorflow", "jax"])
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def one(backend, tmp_path_factory):
    before = keras.config.dtype_policy()
    _, result = worker.run(None, tmp_path_factory.mktemp("one"), float64=backend == "tensorflow")
    keras.config.set_dtype_policy(before)
    return result


@pytest.fixture(scope="module")
def two(backend, tmp_path_factory):
    """What both workers found; how the first ended after the second was killed; its directory."""
    directory = tmp_path_factory.mktemp(backend)
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses,
    }
    command = [sys.executable, "-m", "tests.several_machines_worker", str(directory)]
    processes = [
        subprocess.Popen(
            command,
            env={**environment, "KERAS_DISTRIBUTION_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        killed = processes[1].communicate(timeout=600)[0]
        before = time.monotonic()
        log = processes[0].communicate(timeout=300)[0]
        seconds = time.monotonic() - before
    finally:
        for process in processes:
            process.kill()
    found = []
    for text in (log, killed):
        lines = [line for line in text.splitlines() if line.startswith("RESULT ")]
        assert lines, text[-3000:]
        found.append(json.loads(lines[0].removeprefix("RESULT ")))
    return found, (processes[0].returncode, seconds, log), directory


def test_losses_are_those_of_one_process(one, two):
    """Also those of the second epoch, which resumed from the state of the first worker."""
    for found in two[0]:
        np.testing.assert_allclose(found["losses"], one["losses"], rtol=1e-5)
        assert found["scores"].keys() == one["scores"].keys()
        for name, score in one["scores"].items():
            np.testing.assert_allclose(found["scores"][name], score, rtol=1e-5, err_msg=name)


def test_every_example_of_a_pass_is_trained_by_one_worker(one, two):
    for task, numbers in one["numbers"].items():
        parts = [found["numbers"][task] for found in two[0]]
        assert all(parts)
        assert sorted(sum(parts, [])) == sorted(numbers) == [*range(worker.SIZES[task])]


def test_only_the_chief_writes(two):
    directory: pathlib.Path = two[2]
    written = [len([*directory.glob(f"{index}/state*.npz")]) for index in range(2)]
    assert written == [2, 0]


def test_a_worker_that_is_killed_ends_the_other(two):
    code, seconds, log = two[1]
    assert code not in (0, None) and seconds < 60
    assert "heartbeat timeout" in log or "Connection" in log or "connect" in log, log[-3000:]
