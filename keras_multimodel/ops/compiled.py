"""Functions and loops that a backend compiles."""

import keras
from keras import ops


def compiled(function, variables: list, in_order: bool = False):
    """Returns a compiled `function(values, *args)` as a function of `args`.

    Updates of variables are dropped: whatever layers count in between, generation changes no model.

    Args:
        function: takes a list of pairs of a variable and its value, for `keras.StatelessScope`,
            and nested structures of tensors.
        variables: all Keras variables that it reads.
        in_order: whether it is a long chain of small operations. TensorFlow works these off faster
            one after the other than by handing them from thread to thread.

    Returns:
        A function that traces once for each set of shapes, and on torch runs eagerly.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def run(*args):
            # Read once, before any loop.
            return function([(v, ops.convert_to_tensor(v)) for v in variables], *args)

        # It counts the traces of all functions made here as if they were one's.
        run._omit_frequent_tracing_warning = True
        return _in_order(run) if in_order else run
    if backend == "jax":
        import jax

        jitted = jax.jit(lambda values, *args: function(list(zip(variables, values)), *args))
        return lambda *args: jitted([v.value for v in variables], *args)
    return _without_gradients(function, variables)


def _in_order(function):
    """Returns a TensorFlow function that one thread works off; each operation may use more."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    if len(tf.config.list_logical_devices()) > 1:
        return function  # operations could lie on several devices, which needs more threads

    def run(*args):
        with context.function_executor_type("SINGLE_THREADED_EXECUTOR"):
            return function(*args)

    return run


def _without_gradients(function, variables):
    import torch

    def run(*args):
        args = keras.tree.map_structure(ops.convert_to_tensor, args)
        with torch.no_grad():
            return function([(v, v.value) for v in variables], *args)

    return run


def while_loop(condition, body, state):
    """Runs `state = body(state)` while `condition(state)`.

    Args:
        condition: from the state to a boolean scalar.
        body: from the state to a state of the same structure and shapes.
        state: nested structure of tensors.

    Returns:
        The last state.
    """
    state = _ordered(state)
    flat = [ops.convert_to_tensor(x) for x in keras.tree.flatten(state)]

    def unflatten(values):
        return keras.tree.pack_sequence_as(state, list(values))

    def step(*values):
        return tuple(keras.tree.flatten(_ordered(body(unflatten(values)))))

    def go_on(*values):
        return condition(unflatten(values))

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # One iteration at a time: buffers are written in place.
        return unflatten(tf.while_loop(go_on, step, flat, parallel_iterations=1))
    return unflatten(ops.while_loop(go_on, step, flat))


def _ordered(state):
    """Returns the state with the keys of dicts in order, which torch would flatten as they come."""
    if isinstance(state, dict):
        return {key: _ordered(state[key]) for key in sorted(state)}
    if isinstance(state, list | tuple):
        return [_ordered(part) for part in state]
    return state
