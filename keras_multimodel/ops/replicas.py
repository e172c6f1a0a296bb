"""Sums over the replicas of a data-parallel strategy.

A statistic of the batch, such as the number of real tokens or the tokens that each expert received,
must be that of the global batch: computed per replica and averaged, it would depend on how the
batch was cut.


Which replica of a data-parallel strategy is running."""

import keras


def _replica_context():
    """The TensorFlow replica context if several replicas run, else None."""
    if keras.backend.backend() != "tensorflow":
        return None  # JAX shards one global program, torch runs one process: sums are global.
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context


def num_replicas() -> int:
    """Returns how many replicas compute this step together."""
    context = _replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def replica_sum(x):
    """Returns a tensor, or each of a list of tensors, summed over all replicas; differentiable."""
    context = _replica_context()
    return x if context is None else context.all_reduce("sum", x)


def replica_id() -> int:
    """Returns the number of the TensorFlow replica that is being traced, 0 outside a strategy."""
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return 0
    return int(tf.get_static_value(context.replica_id_in_sync_group) or 0)
