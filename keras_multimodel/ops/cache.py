"""Buffers that a generation loop writes one position at a time."""

import math

import keras
from keras import ops

from keras_multimodel.ops.compiled import compiles_with_xla


def write(buffer, rows, index, axis: int = 0):
    """Writes one position of a buffer, in place where the backend can.

    The buffer given must not be used again.

    Args:
        buffer: tensor of static shape.
        rows: what is written, `buffer.shape` without `axis`.
        index: int32 scalar, where on `axis`; within it.
        axis: the axis of positions.

    Returns:
        The buffer with `rows` at `index`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow" and not compiles_with_xla():
        return _scatter(buffer, rows, index, axis)
    rows = ops.expand_dims(rows, axis)
    if backend == "torch":
        buffer.narrow(axis, int(index), 1).copy_(rows)
        return buffer
    return ops.slice_update(buffer, _corner(buffer, index, axis), rows)


def read(buffer, index):
    """Returns `buffer[index]` for an int32 scalar or vector of positions that lie within it."""
    return ops.take(buffer, index, axis=0)


def read_range(buffer, start, size: int, axis: int = 0):
    """Returns the `size` positions from `start` on."""
    shape = list(buffer.shape)
    shape[axis] = size
    return ops.slice(buffer, _corner(buffer, start, axis), shape)


def write_pieces(pieces: list, rows, index) -> list:
    """Writes one position of a buffer that lies in pieces of equal size.

    Args:
        pieces: buffers `(rows, positions, width)`, the first has the first positions.
        rows: `(rows, width)`.
        index: int32 scalar, the position.

    Returns:
        The pieces with `rows` at `index`.
    """
    if len(pieces) == 1:
        return [write(pieces[0], rows, index, axis=1)]
    size = pieces[0].shape[1]
    written = []
    for i, piece in enumerate(pieces):
        # Every piece is written at every step, most with what they have: what depends on the
        # position would cost a copy of the piece.
        place = ops.clip(index - i * size, 0, size - 1)
        old = read_range(piece, place, 1, axis=1)[:, 0]
        written.append(write(piece, ops.where(index // size == i, rows, old), place, axis=1))
    return written


def ring_places(index, size: int, rate: int):
    """Returns where a dilated convolution finds its inputs in a buffer of `rate` rings of `size`.

    Args:
        index: int32 scalar, the newest position.
        size: positions that one output sees, and of a ring.
        rate: distance between them, and number of rings.

    Returns:
        the start of the ring of `index`, the place of `index` itself, both int32 scalars, and int32
        `(size,)` the entry of the kernel that each place of the ring meets.
    """
    start = index % rate * size
    slot = index // rate % size
    # The newest input, in `slot`, meets the last entry of the kernel.
    order = (ops.arange(size - 1, 2 * size - 1, dtype="int32") - slot) % size
    return start, start + slot, order


def _scatter(buffer, rows, index, axis):
    """Writes as a graph of TensorFlow does it in place; an updated slice is a new buffer there."""
    import tensorflow as tf

    width = buffer.shape[axis + 1 :]
    places = tf.range(math.prod(buffer.shape[:axis])) * buffer.shape[axis] + index
    flat = tf.reshape(buffer, (-1, *width))
    flat = tf.tensor_scatter_nd_update(flat, places[:, None], tf.reshape(rows, (-1, *width)))
    return tf.reshape(flat, buffer.shape)


def _corner(buffer, index, axis):
    return [index if i == axis else 0 for i in range(len(buffer.shape))]
