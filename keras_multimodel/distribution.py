"""Training on several machines, and on all devices of one."""

import contextlib
import functools
import inspect
import json
import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_multimodel.argument_checks import positive_int

_INDICES = ("KERAS_DISTRIBUTION_PROCESS_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX")


def initialize(addresses: str | Sequence[str] | None = None, index: int | None = None) -> Any:
    """Joins the workers that train a model together, and returns how they share the work.

    Call it first in the script that every worker runs, and make the model, the data and its
    callbacks under the `scope` of what it returns. Every worker then calls `fit` with the same
    data set. A worker trains its rows of each batch, so that the losses are those of one process.
    The worker with the number 0 is the chief: `kmm.callbacks.Resume` writes there alone, and all
    resume from what the chief reads. If a worker dies, the others end with an error within a
    minute; start all of them again, and `Resume` continues.

    Without addresses there is one worker: this process, which trains on all devices that it has.

    Args:
        addresses: `"host:port"` of every worker, in one order on all of them, as a sequence or
            separated by commas. By default those of `TF_CONFIG`, or else of
            `KERAS_DISTRIBUTION_JOB_ADDRESSES`.
        index: number of this worker among the addresses. By default that of `TF_CONFIG`, or else of
            the first variable that is set: `KERAS_DISTRIBUTION_PROCESS_ID`, `SLURM_PROCID` of
            Slurm, `JOB_COMPLETION_INDEX` of Kubernetes.

    Returns:
        A `tf.distribute.MultiWorkerMirroredStrategy`, or on JAX a `keras.distribution.DataParallel`
        over the devices of all workers, which is set for the whole process.

    Raises:
        ValueError: an address has no port, two are equal, `index` is missing or not one of theirs,
            or the backend is PyTorch.

    Example:

    ```python
    distribution = kmm.distribution.initialize()
    with distribution.scope():
        text = kmm.layers.TextModality(50, hidden_dim=32)
        model = kmm.MultiModel([kmm.Task("copy", text, text)], hidden_dim=32, moe=None)
        model.compile("adam")
    ```
    """
    if keras.backend.backend() not in ("tensorflow", "jax"):
        raise ValueError(
            "Several workers need the backend TensorFlow or JAX. "
            f"Received: {keras.backend.backend()}"
        )
    addresses, index = _workers(addresses, index)
    if keras.backend.backend() == "jax":
        if len(addresses) > 1:
            with _short_heartbeats():
                keras.distribution.initialize(",".join(addresses), len(addresses), index)
        distribution = keras.distribution.DataParallel()
        keras.distribution.set_distribution(distribution)
        return distribution
    import tensorflow as tf

    if len(addresses) < 2:
        return tf.distribute.MirroredStrategy()
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}),
        task_type="worker",
        task_id=index,
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


@contextlib.contextmanager
def _short_heartbeats():
    """Has JAX give up a worker that is silent for half a minute; by itself it waits for 100 s.

    `jax.distributed.initialize` is told so by its arguments, which Keras does not pass on. Old
    releases of JAX have no such argument, but the function that it calls.
    """
    import jax
    from jax._src import distributed

    options: dict[str, int] = {"heartbeat_timeout_seconds": 30}
    owner: Any = jax.distributed
    if "heartbeat_timeout_seconds" not in inspect.signature(owner.initialize).parameters:
        owner = distributed.global_state
        options = {
            f"{side}_{name}": value
            for side in ("service", "client")
            for name, value in (("heartbeat_interval_seconds", 5), ("max_missing_heartbeats", 6))
        }
    initialize = owner.initialize
    owner.initialize = functools.partial(initialize, **options)
    try:
        yield
    finally:
        owner.initialize = initialize


def _workers(addresses, index):
    """Returns the checked addresses of all workers, and the number of this one."""
    if addresses is None and "TF_CONFIG" in os.environ:
        config = json.loads(os.environ["TF_CONFIG"])
        cluster, task = config.get("cluster", {}), config.get("task", {})
        addresses = [*cluster.get("chief", ()), *cluster.get("worker", ())]
        if index is None and "index" in task:
            is_worker = task.get("type") == "worker"
            index = int(task["index"]) + is_worker * len(cluster.get("chief", ()))
    if addresses is None:
        addresses = os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES", "")
    if isinstance(addresses, str):
        addresses = [address.strip() for address in addresses.split(",") if address.strip()]
    addresses = list(addresses)
    if len(addresses) < 2:
        return addresses, 0
    wrong = [a for a in addresses if not str(a).rpartition(":")[2].isdecimal() or ":" not in a]
    if wrong or len({*addresses}) < len(addresses):
        raise ValueError(
            "`addresses` must be 'host:port' of every worker, each once. "
            f"Received: addresses={addresses}"
        )
    if index is None:
        given = [os.environ[name] for name in _INDICES if name in os.environ]
        index = int(given[0]) if given and given[0].isdecimal() else None
    if index is None or positive_int("index", index, minimum=0) >= len(addresses):
        raise ValueError(
            f"`index` must be the number of this worker, from 0 to {len(addresses) - 1}. "
            f"Received: index={index}"
        )
    return addresses, index
