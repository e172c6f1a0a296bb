"""Sums over the replicas of a data-parallel strategy, and which replica is running.

A statistic of the batch, such as the number of real tokens or the tokens that each expert received,
must be that of the global batch: computed per replica and averaged, it would depend on how the
batch was split.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

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
    if num_replicas() == 1:
        return x
    # A Keras variable must be read here: a strategy of several workers needs the device of a value.
    return _replica_context().all_reduce("sum", keras.tree.map_structure(ops.copy, x))


def replica_id() -> int:
    """Returns the number of the replica that is being traced, 0 outside a strategy."""
    context = _replica_context()
    if context is None:
        return 0
    import tensorflow as tf

    # None while a strategy of one device traces: there the number is no constant.
    return int(tf.get_static_value(context.replica_id_in_sync_group) or 0)


def replica_parts(variables: list[keras.Variable]) -> dict[int, np.ndarray]:
    """Returns what each replica holds of variables that are the sum of their replicas.

    Args:
        variables: the variables, outside of a step.

    Returns:
        number of the variable -> `(replicas, *shape)`, of those that differ between replicas;
        nothing with one device, or on another backend than TensorFlow.
    """
    parts = {number: _components(variable) for number, variable in enumerate(variables)}
    return {n: np.stack([part.numpy() for part in found]) for n, found in parts.items() if found}


def set_replica_parts(variables: list[keras.Variable], parts: dict[int, np.ndarray]) -> None:
    """Sets what `replica_parts` returned, where there are as many replicas as there were."""
    for number, arrays in parts.items():
        found = _components(variables[number])
        if len(found) == len(arrays):
            for part, array in zip(found, arrays):
                part.assign(array)


def _components(variable):
    if keras.backend.backend() != "tensorflow":
        return ()
    import tensorflow as tf

    value = variable.value
    on_read = getattr(value, "synchronization", None) == tf.VariableSynchronization.ON_READ
    return value.values if on_read and len(getattr(value, "values", ())) > 1 else ()
