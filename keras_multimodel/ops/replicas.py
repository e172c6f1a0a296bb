"""Sums over the replicas of a data-parallel strategy, and which replica is running.

A statistic of the batch, such as the number of real tokens or the tokens that each expert received,
must be that of the global batch: computed per replica and averaged, it would depend on how the
batch was split.
"""

from typing import Any

import keras

from keras_multimodel.typing import Tensor


def _replica_context() -> Any:
    """Returns TensorFlow's replica context, None outside a strategy's `run` and on other backends.

    JAX shards one global program, and torch runs one process: there every sum is global.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()


def num_replicas() -> int:
    """Returns how many replicas compute this step together."""
    context = _replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def replica_sum(x: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    """Returns a tensor, or each of a list of tensors, summed over all replicas; differentiable."""
    return x if num_replicas() == 1 else _replica_context().all_reduce("sum", x)


def replica_id() -> int:
    """Returns the number of the replica that is being traced, 0 outside a strategy."""
    context = _replica_context()
    if context is None:
        return 0
    import tensorflow as tf

    # None while a strategy of one device traces: there the number is no constant.
    return int(tf.get_static_value(context.replica_id_in_sync_group) or 0)
