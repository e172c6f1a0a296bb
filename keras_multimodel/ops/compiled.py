"""Functions and loops that a backend compiles."""

import itertools
import os

import keras
from keras import ops

# TensorFlow keeps what XLA has compiled, some 50 MB, as long as the process lives.
_MOST_XLA_PROGRAMS = 64
_xla_programs = itertools.count()


def compiled(function, variables: list, xla: bool = False):
    """Returns a compiled `function(values, *args)` as a function of `args`.

    Updates of variables are dropped: whatever layers count in between, generation changes no model.

    Args:
        function: takes a list of pairs of a variable and its value, for `keras.StatelessScope`,
            and nested structures of tensors.
        variables: all Keras variables that it reads.
        xla: whether TensorFlow compiles it with XLA, which takes seconds and then spares a loop of
            small operations the time to start each of them. What XLA cannot compile runs without,
            and so does what comes after the first 64 in a process.

    Returns:
        A function that traces once for each set of shapes, and on torch runs eagerly.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        plain = _tensorflow_graph(function, variables)
        if xla and next(_xla_programs) < _MOST_XLA_PROGRAMS:
            return _with_xla(function, variables, plain)
        return plain
    if backend == "jax":
        import jax

        jitted = jax.jit(lambda values, *args: function(list(zip(variables, values)), *args))
        return lambda *args: jitted([v.value for v in variables], *args)
    return _without_gradients(function, variables)


def _tensorflow_graph(function, variables, xla=False):
    import tensorflow as tf

    @tf.function(autograph=False, jit_compile=xla)
    def inner(values, *args):
        return function(list(zip(variables, values)), *args)

    @tf.function(autograph=False)
    def run(*args):
        # Read once, before any loop, and outside of XLA, which knows no mirrored variables.
        return inner([tf.convert_to_tensor(v.value) for v in variables], *args)

    # It counts the traces of all functions made here as if they were one's.
    inner._omit_frequent_tracing_warning = run._omit_frequent_tracing_warning = True
    return run


def _with_xla(function, variables, plain):
    import tensorflow as tf

    program = _tensorflow_graph(function, variables, xla=True)

    def run(*args):
        nonlocal program
        try:
            return program(*args)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            if program is plain:
                raise
            program = plain
            return plain(*args)

    return run


def _without_gradients(function, variables):
    import torch

    def run(*args):
        args = keras.tree.map_structure(ops.convert_to_tensor, args)
        with torch.no_grad():
            return function([(v, v.value) for v in variables], *args)

    return run


def compiles_with_xla() -> bool:
    """Returns whether TensorFlow traces a graph for XLA, which needs static shapes."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def tensorflow_on_cpu() -> bool:
    """Returns whether the backend is TensorFlow and has no other device than CPUs."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())


def loops_side_by_side() -> int:
    """Returns how many loops of small operations are worth running at once, in threads.

    A step of such a loop keeps one core busy. A GPU, and what shares one interpreter, does not get
    done sooner.
    """
    if not tensorflow_on_cpu():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


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
    if hasattr(state, "_fields"):
        return type(state)(*(_ordered(part) for part in state))
    if isinstance(state, list | tuple):
        kind = list if isinstance(state, list) else tuple
        return kind(_ordered(part) for part in state)
    return state
