"""Functions and loops that a backend compiles."""

from collections.abc import Callable

import keras
from keras import ops

from keras_multimodel.typing import Nested, Tensor


def compiled(function: Callable, variables: list[keras.Variable], xla: bool = False) -> Callable:
    """Returns a compiled `function(values, *args)` as a function of `args`.

    Updates of variables are dropped: generation changes no model, whatever its layers count.

    Args:
        function: takes a list of pairs of a variable and its value, for `keras.StatelessScope`,
            and nested structures of tensors.
        variables: all Keras variables that the function reads.
        xla: whether TensorFlow compiles the function with XLA. A function that XLA cannot compile
            runs as a plain graph.

    Returns:
        A function that traces once for each set of shapes; on torch it runs eagerly.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        graph = _tensorflow_graph(function, variables, xla)
        return _with_fallback(graph, function, variables) if xla else graph
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
        # Variables are read once, before any loop, and outside of XLA, which cannot read the
        # mirrored variables of a distribution strategy.
        return inner([tf.convert_to_tensor(v.value) for v in variables], *args)

    # TensorFlow counts the traces of all functions made here as if they were one function's, and
    # would warn that it retraces too often.
    inner._omit_frequent_tracing_warning = run._omit_frequent_tracing_warning = True
    return run


def _with_fallback(program, function, variables):
    """Returns `program` until XLA refuses it, and from then on a plain graph."""
    import tensorflow as tf

    refused = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)
    plain = _tensorflow_graph(function, variables)

    def run(*args):
        nonlocal program
        try:
            return program(*args)
        except refused:
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


def while_loop(condition: Callable[[Nested], Tensor], body: Callable, state: Nested) -> Nested:
    """Runs `state = body(state)` while `condition(state)`.

    Args:
        condition: maps the state to a boolean scalar.
        body: maps the state to a state of the same structure and shapes.
        state: nested structure of tensors.

    Returns:
        The last state.
    """

    def unflatten(values):
        return keras.tree.pack_sequence_as(state, list(values))

    def step(*values):
        after = body(unflatten(values))
        # Flattened in the order of `state`: torch flattens a dict in the order of its insertion.
        pairs = keras.tree.map_structure(lambda _, new: new, state, after)
        return tuple(keras.tree.flatten(pairs))

    def unfinished(*values):
        return condition(unflatten(values))

    flat = [ops.convert_to_tensor(x) for x in keras.tree.flatten(state)]
    return unflatten(ops.while_loop(unfinished, step, flat))
