"""Programs that a backend compiles for generation, and what makes them fast on CPUs.

Measured for a batch of 16 on two cores, paired medians: compiling the loop with XLA makes it 2.7
times as fast at 64 ids; half of the batch in each of two threads, 1.9 times at 128 ids and 3 times
at 512; attention to those chunks of the cache only that are written, 2 times at 512 ids. What was
worth less than 25 % is not here. No part changes an output beyond rounding.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from keras import ops

from keras_multimodel.ops.gradients import forward_only
from keras_multimodel.ops.numerics import at_least_float32
from keras_multimodel.typing import Tensor

# The score of a position that is masked. Finite, so that a row without any real position attends to
# all of them evenly, instead of giving NaN.
_HIDDEN = -1e9
_XLA_FROM = 64  # ids; shorter loops never earn back the seconds that XLA takes to compile
_MAX_XLA = 16  # programs of a process: TensorFlow keeps the code of each as long as it runs
_MAX_FIXED = 2  # graphs of a function that TensorFlow cannot trace for any shapes
_MIN_ROWS = 8  # of each part of a batch
_CHUNK = 64  # positions


def compiled(
    function: Callable,
    variables: list[keras.Variable],
    xla: bool = False,
    any_shapes: bool = False,
) -> Callable:
    """Returns a compiled `function(values, *args)` as a function of `args`.

    Updates of variables are dropped: generation changes no model, whatever its layers count.

    Args:
        function: takes a list of pairs of a variable and its value, for `keras.StatelessScope`,
            and nested structures of tensors.
        variables: all Keras variables that the function reads.
        xla: whether TensorFlow compiles the function with XLA. A function that XLA cannot compile
            runs as a plain graph.
        any_shapes: whether TensorFlow traces one graph for all shapes, which is up to a tenth
            slower. A function that has to know its shapes gets a graph for each of the last few.

    Returns:
        A function that traces once for each set of shapes; on torch it runs eagerly.
    """
    function = _without_gradients(function)

    backend = keras.backend.backend()
    if backend == "tensorflow":
        if any_shapes:
            return _graph_of_any_shapes(function, variables)
        graph = _tensorflow_graph(function, variables, xla)
        return _with_fallback(graph, function, variables) if xla else graph
    if backend == "jax":
        import jax

        jitted = jax.jit(lambda values, *args: function(list(zip(variables, values)), *args))
        return lambda *args: jitted([v.value for v in variables], *args)
    import torch

    @torch.no_grad()
    def run(*args):
        args = keras.tree.map_structure(ops.convert_to_tensor, args)
        return function([(v, v.value) for v in variables], *args)

    return run


def _without_gradients(function):
    def call(*args):
        with forward_only():
            return function(*args)

    return call


def _tensorflow_graph(function, variables, xla=False, any_shapes=False):
    import tensorflow as tf

    def inner(values, *args):
        return function(list(zip(variables, values)), *args)

    if xla:
        inner = tf.function(inner, autograph=False, jit_compile=True)
        inner._omit_frequent_tracing_warning = True

    # Leaves open what differs between the shapes of two calls.
    @tf.function(autograph=False, reduce_retracing=any_shapes)
    def run(*args):
        # Where `tf.config.run_functions_eagerly` is on, arrays arrive as they were given.
        args = keras.tree.map_structure(ops.convert_to_tensor, args)
        # Variables are read once, before any loop, and outside of XLA, which cannot read the
        # mirrored variables of a distribution strategy.
        return inner([tf.convert_to_tensor(v.value) for v in variables], *args)

    # TensorFlow counts the traces of all functions made here as if they were one function's, and
    # would warn that it retraces too often.
    run._omit_frequent_tracing_warning = True
    return run


def _graph_of_any_shapes(function, variables):
    """Returns a function that traces once or twice, or for each of its shapes if it has to."""
    graph = _tensorflow_graph(function, variables, any_shapes=True)
    fixed, lock = {}, threading.Lock()  # by shapes, in the order of their last use

    def run(*args):
        if not fixed:
            # A block of a user may need to know a size. An error of another cause comes again.
            with contextlib.suppress(Exception):
                return graph(*args)
        shapes = tuple(np.shape(x) for x in keras.tree.flatten(args))
        with lock:
            program = fixed.pop(shapes, None) or _tensorflow_graph(function, variables)
        found = program(*args)
        with lock:
            fixed[shapes] = program
            if len(fixed) > _MAX_FIXED:
                del fixed[next(iter(fixed))]
        return found

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


def compiles_with_xla() -> bool:
    """Returns whether TensorFlow traces a graph for XLA, which needs static shapes."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def under_xla() -> bool:
    """Returns whether what is traced now is compiled with XLA, on TensorFlow or JAX."""
    return keras.backend.backend() == "jax" or compiles_with_xla()


def jax_on_accelerator() -> bool:
    """Returns whether JAX runs on something else than CPUs."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() != "cpu"


def materialized(x: Tensor) -> Tensor:
    """Has XLA write a tensor to memory, where it would compute it anew for each of its readers."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.optimization_barrier(x)
    if not compiles_with_xla():
        return x
    from tensorflow.compiler.tf2xla.python import xla

    return xla.optimization_barrier(x)[0]


def traces_any_shapes() -> bool:
    """Returns whether one program serves all shapes, where `compiled` is asked for that."""
    return keras.backend.backend() != "jax"


def worth_xla(length: int) -> bool:
    """Returns whether XLA should compile a loop that writes up to `length` ids."""
    return length >= _XLA_FROM


def claim_xla() -> bool:
    """Returns whether XLA may compile one more program of TensorFlow in this process.

    Measured: 5 MB for a loop of 20 small products, up to 20 MB for that of a small model, and
    nothing of it is ever given back. A service that meets ever new shapes would grow without end.
    """
    return keras.backend.backend() == "tensorflow" and next(_claims, None) is not None


_claims = iter(range(_MAX_XLA))  # taking the next of a range is safe in threads


def rows_per_thread(count: int) -> int:
    """Returns how many of `count` rows of a batch each thread writes."""
    parts = min(_cores(), count // _MIN_ROWS)
    return -(-count // max(1, parts))


def in_threads(function: Callable, items: list) -> None:
    """Calls a function on each item, in a thread of its own if there are several."""
    if len(items) == 1:
        function(items[0])
        return
    with ThreadPoolExecutor(len(items)) as pool:
        list(pool.map(function, items))  # a list, or an error of a thread would not be raised


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Attends from one position to others.

    Axes: B batch, N heads, H channels per head.

    Args:
        queries: `(B, N, H)`, scaled.
        keys: `(B, N, H, positions)`.
        values: as `keys`.
        mask: boolean, broadcasts to `(B, N, positions)`; False where a position is hidden.

    Returns:
        the greatest score and the sum of the weights, `(B, N, 1)`, and the weighted sum of the
        values, `(B, N, H)`, in float32 or float64.
    """
    scores = at_least_float32(ops.einsum("bnh,bnht->bnt", queries, keys))
    scores = ops.where(mask, scores, _HIDDEN)
    greatest = ops.max(scores, axis=-1, keepdims=True)
    weights = ops.exp(scores - greatest)
    found = ops.einsum("bnt,bnht->bnh", ops.cast(weights, values.dtype), values)
    return greatest, ops.sum(weights, axis=-1, keepdims=True), at_least_float32(found)


def attend_to_prefix(queries: Tensor, keys: Tensor, values: Tensor, index: Tensor) -> Tensor:
    """Attends to the positions up to `index` of a cache.

    A step of a long loop is bound by the bytes that it reads. So it reads a long cache in chunks,
    and leaves out those that are not written yet.

    Args:
        queries: see `attend`.
        keys: see `attend`.
        values: see `attend`.
        index: int32 scalar.

    Returns:
        `(B, N, H)`.
    """
    length = keys.shape[-1]
    if length <= _CHUNK or length % _CHUNK or not (compiles_with_xla() and _cores() > 1):
        _, total, found = attend(queries, keys, values, ops.arange(length) <= index)
        return found / total

    def add_chunk(start, greatest, total, found):
        size = (*keys.shape[:3], _CHUNK)
        some_keys = ops.slice(keys, (0, 0, 0, start), size)
        some_values = ops.slice(values, (0, 0, 0, start), size)
        more = attend(queries, some_keys, some_values, ops.arange(_CHUNK) + start <= index)
        # Both sums are scaled to the greatest score of all, as the softmax of the whole is.
        highest = ops.maximum(greatest, more[0])
        old, new = ops.exp(greatest - highest), ops.exp(more[0] - highest)
        return start + _CHUNK, highest, total * old + more[1] * new, found * old + more[2] * new

    nothing = at_least_float32(queries) * 0.0
    state = (ops.zeros((), "int32"), nothing[..., :1] + 2 * _HIDDEN, nothing[..., :1], nothing)
    _, _, total, found = ops.while_loop(lambda start, *_: start <= index, add_chunk, state)
    return found / total


def _cores() -> int:
    """Returns how many cores TensorFlow runs on, 1 if there is a GPU or on another backend."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    if any(device.device_type != "CPU" for device in tf.config.list_physical_devices()):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
