"""Rows in groups, one matrix for each group. Axis legend: R rows, G groups, B blocks."""

from typing import NamedTuple

import keras
from keras import ops

from keras_multimodel.ops.compiled import compiles_with_xla


def grouped_matmul(x, kernel, group_sizes):
    """Multiplies the rows of each group by the group's matrix.

    TensorFlow multiplies groups of variable size, or under XLA blocks of one size; JAX uses
    `jax.lax.ragged_dot` on accelerators and blocks on CPUs, where XLA would multiply every row by
    every matrix; torch uses its grouped product where strides allow it.

    Args:
        x: `(R, in)`, sorted by group; rows past the last group belong to none.
        kernel: `(G, in, out)`.
        group_sizes: int32 `(G,)`, rows of each group.

    Returns:
        `(R, out)`, zeros for rows without a group.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return _torch(x, kernel, group_sizes)
    if backend == "jax" and not use_blocks():
        import jax

        grouped = ops.arange(x.shape[0]) < ops.sum(group_sizes)
        rows = ops.where(grouped[:, None], x, 0)
        return ops.where(grouped[:, None], jax.lax.ragged_dot(rows, kernel, group_sizes), 0)
    if use_blocks():
        groups = ops.searchsorted(ops.cumsum(group_sizes), ops.arange(ops.shape(x)[0]), "right")
        return _blocked(x, kernel, ops.cast(groups, "int32"))
    return _tensorflow(x, kernel, group_sizes)


def use_blocks() -> bool:
    """Returns whether groups have to be padded to blocks, so that all shapes are static."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    return compiles_with_xla()


def take_matrices(kernel, indices):
    """Gathers matrices as flat rows: TensorFlow leaves the gradient of a plain gather in slices."""
    flat = ops.reshape(kernel, (kernel.shape[0], -1))
    return ops.reshape(ops.take(flat, indices, axis=0), (-1, *kernel.shape[1:]))


def with_zeros(x):
    """Returns `x` `(R, D)` with a row of zeros after its last, for indices of R."""
    return ops.concatenate([x, ops.zeros((1, x.shape[-1]), x.dtype)], axis=0)


def _blocked(x, kernel, groups):
    layout = blocked_layout(groups, kernel.shape[0])
    rows = ops.take(with_zeros(x), layout.row_of_slot, axis=0)
    blocks = ops.reshape(rows, (-1, layout.block_size, x.shape[-1]))
    y = ops.matmul(blocks, take_matrices(kernel, layout.group_of_block))
    y = ops.reshape(y, (-1, kernel.shape[-1]))
    return ops.take(with_zeros(y), layout.slot_of_row, axis=0)


def _tensorflow(x, kernel, group_sizes):
    import tensorflow as tf

    num_groups = kernel.shape[0]
    rest = tf.shape(x)[0] - tf.reduce_sum(group_sizes)
    parts = tf.split(x, tf.concat([group_sizes, [rest]], 0), num=num_groups + 1)
    matrices = tf.unstack(tf.convert_to_tensor(kernel))
    products = [tf.matmul(part, matrix) for part, matrix in zip(parts, matrices)]
    return tf.concat([*products, tf.zeros([rest, kernel.shape[2]], x.dtype)], 0)


def _torch(x, kernel, group_sizes):
    import torch

    grouped = torch.nn.functional.grouped_mm if _torch_has_grouped(x, kernel) else None
    ends = torch.cumsum(group_sizes, 0).to(torch.int32)
    if grouped is not None:
        inside = (torch.arange(x.shape[0], device=x.device) < ends[-1])[:, None]
        rows = torch.where(inside, x, 0)
        return torch.where(inside, grouped(rows, kernel, offs=ends), 0)
    sizes = group_sizes.tolist()
    parts = torch.split(x, [*sizes, x.shape[0] - sum(sizes)])
    products = [part @ matrix for part, matrix in zip(parts, kernel.unbind(0))]
    return torch.cat([*products, parts[-1].new_zeros(parts[-1].shape[0], kernel.shape[-1])])


def _torch_has_grouped(x, kernel) -> bool:
    """Returns whether torch has a grouped product for these: rows must lie at whole 16 bytes."""
    import torch

    widths = kernel.shape[1] * x.element_size(), kernel.shape[2] * x.element_size()
    return hasattr(torch.nn.functional, "grouped_mm") and all(w % 16 == 0 for w in widths)


class BlockedLayout(NamedTuple):
    """Where the rows of each group lie when every group is padded to whole blocks.

    Attributes:
        block_size: rows of a block; there are B blocks, and B * block_size slots.
        group_of_block: int32 `(B,)`.
        row_of_slot: int32 `(B * block_size,)`, the row that a slot holds; R for an empty one.
        slot_of_row: int32 `(R,)`; B * block_size for a row without a group.
    """

    block_size: object
    group_of_block: object
    row_of_slot: object
    slot_of_row: object


def blocked_layout(groups, num_groups: int) -> BlockedLayout:
    """Lays rows out in blocks that hold rows of one group each.

    A block has about R / G rows, so that at most 2 G blocks, and no more than R, are needed however
    the rows fall into groups. The shapes depend on R and G alone, the multiplications are at most
    about twice those that the rows need, and so are the matrices.

    Args:
        groups: int32 `(R,)`, the group of each row, G for a row without one.
        num_groups: G.

    Returns:
        A `BlockedLayout`.
    """
    num_rows = ops.shape(groups)[0]
    block_size = _at_least_one((num_rows + num_groups - 1) // num_groups)
    # Every group but the empty ones may have one block that is not full.
    num_blocks = (num_rows + _least(num_groups, num_rows) * (block_size - 1)) // block_size
    num_slots = num_blocks * block_size
    sizes = ops.segment_sum(ops.ones_like(groups), groups, num_segments=num_groups + 1)
    sizes = ops.cast(sizes, "int32")[:num_groups]
    blocks = (sizes + block_size - 1) // block_size
    last_block = ops.cumsum(blocks)
    first_slot = ops.append((last_block - blocks) * block_size, [num_slots])
    order = ops.cast(ops.argsort(groups), "int32")
    position = ops.arange(num_rows, dtype="int32")
    rank = position - ops.take(ops.append(ops.cumsum(sizes) - sizes, [0]), ops.take(groups, order))
    slot = ops.take(first_slot, ops.take(groups, order)) + rank
    slot = ops.minimum(slot, num_slots)
    slot_of_row = ops.take(slot, ops.argsort(order))
    filled = ops.segment_sum(order - num_rows, slot, num_segments=num_slots + 1)[:num_slots]
    block = ops.arange(num_blocks, dtype="int32")
    group_of_block = ops.minimum(ops.searchsorted(last_block, block, "right"), num_groups - 1)
    return BlockedLayout(
        block_size, ops.cast(group_of_block, "int32"), filled + num_rows, slot_of_row
    )


def _least(number: int, size):
    """Returns the smaller of an integer and a size; see `_at_least_one`."""
    return min(number, size) if isinstance(size, int) else ops.minimum(number, size)


def _at_least_one(size):
    """Returns a size that may be an integer or, where shapes are dynamic, a tensor."""
    return max(size, 1) if isinstance(size, int) else ops.maximum(size, 1)
