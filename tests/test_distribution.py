import json

import keras
import pytest

from keras_multimodel import distribution

TWO = ["a:1", "b:2"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment that names no workers."""
    for name in ("TF_CONFIG", "KERAS_DISTRIBUTION_JOB_ADDRESSES", *distribution._INDICES):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    "addresses, index, variables, expected",
    [
        (TWO, 1, {"SLURM_PROCID": "0"}, (TWO, 1)),
        ("a:1, b:2", None, {"SLURM_PROCID": "1"}, (TWO, 1)),
        (
            None,
            None,
            {"KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1,b:2", "SLURM_PROCID": "1"},
            (TWO, 1),
        ),
        (
            None,
            None,
            {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1,b:2",
                "KERAS_DISTRIBUTION_PROCESS_ID": "0",
                "JOB_COMPLETION_INDEX": "1",
            },
            (TWO, 0),
        ),
        (TWO, None, {"JOB_COMPLETION_INDEX": "1"}, (TWO, 1)),
        (None, None, {}, ([], 0)),
        (None, None, {"KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1"}, (["a:1"], 0)),
    ],
)
def test_the_workers_that_the_environment_names(environment, addresses, index, variables, expected):
    for name, value in variables.items():
        environment.setenv(name, value)
    assert distribution._workers(addresses, index) == expected


@pytest.mark.parametrize(
    "cluster, kind, index, expected",
    [
        ({"worker": TWO}, "worker", 1, (TWO, 1)),
        ({"chief": ["a:1"], "worker": ["b:2"]}, "worker", 0, (TWO, 1)),
        ({"chief": ["a:1"], "worker": ["b:2"]}, "chief", 0, (TWO, 0)),
    ],
)
def test_tf_config(environment, cluster, kind, index, expected):
    environment.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "c:3,d:4")
    config = {"cluster": cluster, "task": {"type": kind, "index": index}}
    environment.setenv("TF_CONFIG", json.dumps(config))
    assert distribution._workers(None, None) == expected


@pytest.mark.parametrize(
    "addresses, index, message",
    [
        (["a", "b:2"], 0, r"`addresses` must be 'host:port'.*Received: addresses=\['a', 'b:2'\]"),
        (["a:x", "b:2"], 0, "`addresses` must .*'a:x'"),
        (["a:1", "a:1"], 0, "each once. .*'a:1', 'a:1'"),
        (TWO, 2, "`index` must be the number .* 0 to 1. Received: index=2"),
        (TWO, None, "`index` must .*Received: index=None"),
        (TWO, -1, "`index` must be an integer of at least 0. Received: index=-1"),
    ],
)
def test_what_cannot_be_joined(addresses, index, message):
    if keras.backend.backend() == "torch":
        message = "TensorFlow or JAX. Received: torch"
    with pytest.raises(ValueError, match=message):
        distribution.initialize(addresses, index)
