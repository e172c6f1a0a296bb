"""Buffers that a generation loop writes one position at a time."""

import keras
from keras import ops


def allocate(shape: tuple, dtype: str):
    """Returns a buffer of zeros that `write` may overwrite.

    Args:
        shape: static shape; the first axis is the one that is written.
        dtype: name of the dtype.

    Returns:
        A tensor of `shape`.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Not `tf.zeros`: a graph makes that a constant, overwritten for all later calls.
        return tf.raw_ops.Empty(shape=tf.constant(shape, "int32"), dtype=dtype, init=True)
    return ops.zeros(shape, dtype=dtype)


def write(buffer, rows, index):
    """Writes rows into a buffer, in place where the backend can.

    The buffer given must not be used again. Within a loop, what is written must depend on all
    that was read from the buffer before, as a token depends on the tokens before it.

    Args:
        buffer: `(positions, ...)`, from `allocate`.
        rows: `(...)` for one position, or `(count, ...)` for several.
        index: int32 scalar, or int32 `(count,)` of distinct positions.

    Returns:
        The buffer with `buffer[index] = rows`.
    """
    backend = keras.backend.backend()
    if len(index.shape) == 0:
        index, rows = index[None], rows[None]
    if backend == "tensorflow":
        import tensorflow as tf

        if buffer.dtype in (tf.float32, tf.int32):
            return tf.raw_ops.InplaceUpdate(x=buffer, i=index, v=rows)
        return tf.tensor_scatter_nd_update(buffer, index[:, None], rows)
    if backend == "torch":
        buffer[index] = rows
        return buffer
    return ops.scatter_update(buffer, index[:, None], rows)


def read(buffer, index):
    """Returns `buffer[index]` for an int32 scalar or vector of positions that lie within it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(buffer, index)
    return ops.take(buffer, index, axis=0)


def read_range(buffer, start, size: int):
    """Returns `buffer[start : start + size]`: no copy on TensorFlow and torch."""
    if keras.backend.backend() == "jax":
        return ops.slice(buffer, [start] + [0] * (len(buffer.shape) - 1), (size, *buffer.shape[1:]))
    part = buffer[start : start + size]
    return part if keras.backend.backend() == "torch" else _with_length(part, size)


def read_first(buffer, size):
    """Returns `buffer[:size]` without a copy; on JAX, whose shapes are static, all of it."""
    return buffer if keras.backend.backend() == "jax" else buffer[:size]


def ring_places(index, size: int, rate: int):
    """Returns where a dilated convolution finds its inputs in a buffer of `rate` rings of `size`.

    Args:
        index: int32 scalar, the newest position.
        size: positions that one output sees, and of a ring.
        rate: distance between them, and number of rings.

    Returns:
        the start of the ring of `index`, int32 `(1,)` the place of `index` itself, and int32
        `(size,)` the entry of the kernel that each place of the ring meets.
    """
    return once(("ring", size, rate), index, lambda: _ring_places(index, size, rate))


def _ring_places(index, size, rate):
    start = 0 if rate == 1 else index % rate * size
    slot = (index if rate == 1 else index // rate) % size
    # The newest input, in `slot`, meets the last entry of the kernel.
    order = (ops.arange(size - 1, 2 * size - 1, dtype="int32") - slot) % size
    return start, ops.reshape(start + slot, (1,)), order


def piece_places(index, rows: int, piece: int):
    """Returns int32 `(rows,)`: where `index` lies in `(pieces, rows, piece)`, flattened."""

    def make():
        place = index // piece * rows + ops.arange(rows, dtype="int32")
        return place * piece + index % piece

    return once(("piece", rows, piece), index, make)


def once(key: tuple, index, make):
    """Returns what layers of one model can share: `make()`, made once for each key and index.

    Args:
        key: hashable, what tells it apart.
        index: int32 scalar, the position.
        make: from nothing to a structure of tensors that depends on key and index alone.

    Returns:
        `make()`; within a TensorFlow graph what it was for the same key and index before.
    """
    if keras.backend.backend() != "tensorflow":
        return make()
    import tensorflow as tf

    if tf.executing_eagerly():
        return make()
    graph = tf.compat.v1.get_default_graph()
    made = getattr(graph, "_keras_multimodel_made", None)
    if made is None:
        made = graph._keras_multimodel_made = {}
    key = (*key, index.ref() if tf.is_tensor(index) else index)
    if key not in made:
        made[key] = make()
    return made[key]


def _with_length(x, size):
    x.set_shape((size, *x.shape[1:]))
    return x
