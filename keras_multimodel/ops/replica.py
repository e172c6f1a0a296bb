"""Which replica of a data-parallel strategy is running."""

import keras


def replica_id() -> int:
    """Returns the number of the TensorFlow replica that is being traced, 0 outside a strategy."""
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return 0
    return int(tf.get_static_value(context.replica_id_in_sync_group) or 0)
