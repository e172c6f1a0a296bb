"""Caches of a generation loop, which writes one position at a time."""

import functools
import math
from typing import NamedTuple

import keras
from keras import ops

from keras_multimodel.ops.compiled import compiles_with_xla

_PIECE = 64  # positions that a step may write


class Fixed(NamedTuple):
    """Part of a cache that no step changes, so that a loop need not hand it on.

    Attributes:
        value: nested structure of tensors.
    """

    value: object


class Growing(NamedTuple):
    """A buffer that each step extends by a position.

    What a loop only reads costs less than what it writes, and what is not there yet need not be
    read. So a step writes to the `open` piece, which has the positions from `index // size * size`
    on, where `index` is the newest and `size` what fits. Those before lie in `full` pieces, as the
    binary digits of `index // size` tell: piece `i` has `size * 2 ** i` positions where digit `i`
    is 1, and else nothing that counts. A buffer that is open for all positions has no others.
    Positions are the last axis: a few long rows are read faster than many short ones.

    Attributes:
        open: `(rows, width, size)`.
        full: `Fixed` list of tensors `(rows, width, size * 2 ** i)`.
    """

    open: object
    full: Fixed


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


def extend(buffer: Growing, rows, index) -> Growing:
    """Writes position `index`, `(rows, width)`, to the open piece of a buffer."""
    place = index % buffer.open.shape[-1]
    return buffer._replace(open=write(buffer.open, rows, place, axis=2))


def with_pieces(cache, length: int):
    """Returns a cache, not written yet, whose growing buffers are ready for `next_piece`.

    Each is open for a piece of `length` positions, and has a place for every piece that may be full
    one day.
    """
    size = piece_size(length)
    count = (-(-length // size) - 1).bit_length()

    @functools.cache
    def nothing(place, rows, width, dtype):
        return ops.zeros((rows, width, size << place), dtype)  # nobody writes to it

    def divide(buffer):
        rows, width, _ = buffer.open.shape
        dtype = buffer.open.dtype
        first = [ops.zeros((rows, width, size), dtype) for _ in range(min(count, 1))]
        later = [nothing(place, rows, width, dtype) for place in range(1, count)]
        return Growing(ops.zeros((rows, width, size), dtype), Fixed([*first, *later]))

    return _map(divide, cache, Growing)


def piece_size(length: int) -> int:
    """Returns the positions of the open piece, where `length` may come in all."""
    return min(length, _PIECE)


def next_piece(cache, number: int):
    """Returns the cache, whose open piece is full, with one to write to.

    Args:
        cache: nested structure.
        number: how many pieces were full before.
    """
    return _map(lambda buffer: _close(buffer, number), cache, Growing)


def _close(buffer, number):
    full = list(buffer.full.value)
    if not full:
        return buffer  # it is open for all positions
    if number % 2 == 0:  # the first place is free: the two change places
        full[0], opened = buffer.open, full[0]
        return Growing(opened, Fixed(full))
    parts, place = [buffer.open], 0
    while number >> place & 1:  # as in counting: all ones at the end become the next digit
        parts.insert(0, full[place])
        place += 1
    full[place] = ops.concatenate(parts, axis=-1)
    return Growing(buffer.open, Fixed(full))


def split(cache) -> tuple:
    """Returns a cache without the contents of what is `Fixed`, and the list of these."""
    contents = []

    def take(fixed):
        contents.append(fixed.value)
        return Fixed(())

    return _map(take, cache, Fixed), contents


def join(cache, contents: list):
    """Returns the cache that `split` has split."""
    contents = iter(contents)
    return _map(lambda _: Fixed(next(contents)), cache, Fixed)


def _map(function, cache, kind):
    """Applies a function to all parts of one kind."""
    if isinstance(cache, kind):
        return function(cache)
    if isinstance(cache, dict):
        return {key: _map(function, cache[key], kind) for key in sorted(cache)}
    if isinstance(cache, tuple):
        parts = [_map(function, part, kind) for part in cache]
        return type(cache)(*parts) if hasattr(cache, "_fields") else tuple(parts)
    if isinstance(cache, list):
        return [_map(function, part, kind) for part in cache]
    return cache


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
