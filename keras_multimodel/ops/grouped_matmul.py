"""Rows in groups, one matrix per group. Axis legend: R rows, G groups."""

from typing import NamedTuple

from keras import ops


class BlockedLayout(NamedTuple):
    """Where the rows of each group lie when every group is padded to whole blocks.

    Attributes:
        block_size: rows of a block; there are B blocks.
        block_group: int32 `(B,)`, the group of each block.
        source: int32 `(B * block_size,)`, the row that a slot holds.
        filled: bool `(B * block_size,)`, whether the slot holds a row.
        slot: int32 `(R,)`, the slot of each row; B * block_size for a row without a group.
    """

    block_size: object
    block_group: object
    source: object
    filled: object
    slot: object


def blocked_layout(groups, num_groups: int) -> BlockedLayout:
    """Lays rows out in blocks that hold rows of one group each.

    A block has about R / G rows, so that at most 2 G blocks are needed however the rows fall into
    groups. The shapes depend on R and G alone, the multiplications are at most about twice
    those that the rows need, and so are the matrices.

    Args:
        groups: int32 `(R,)`, the group of each row, G for a row without one.
        num_groups: G.

    Returns:
        A `BlockedLayout`.
    """
    num_rows = ops.shape(groups)[0]
    block_size = (num_rows + num_groups - 1) // num_groups
    num_blocks = num_groups + num_rows // block_size
    order = ops.cast(ops.argsort(groups), "int32")
    sizes = ops.segment_sum(ops.ones_like(groups), groups, num_segments=num_groups + 1)[:num_groups]
    sizes = ops.cast(sizes, "int32")
    row_start = ops.cumsum(sizes) - sizes
    blocks = (sizes + block_size - 1) // block_size
    block_end = ops.cumsum(blocks)
    block_group = ops.searchsorted(block_end, ops.arange(num_blocks, dtype="int32"), side="right")
    used = block_group < num_groups
    block_group = ops.cast(ops.minimum(block_group, num_groups - 1), "int32")
    first = ops.take((block_end - blocks) * block_size, block_group)
    slots = ops.reshape(ops.arange(num_blocks * block_size, dtype="int32"), (-1, block_size))
    offset = slots - first[:, None]
    filled = (offset < ops.take(sizes, block_group)[:, None]) & used[:, None]
    position = ops.where(filled, ops.take(row_start, block_group)[:, None] + offset, 0)
    source = ops.take(order, ops.reshape(position, (-1,)))
    filled = ops.reshape(filled, (-1,))
    target = ops.where(filled, source, num_rows)
    slot = _inverse(target, num_rows, num_blocks * block_size)
    return BlockedLayout(block_size, block_group, source, filled, slot)


def _inverse(target, num_rows, num_slots):
    """Returns for each row the slot whose `target` it is, `num_slots` where there is none."""
    slots = ops.arange(num_slots, dtype="int32") - num_slots
    found = ops.segment_sum(slots, target, num_segments=num_rows + 1)[:num_rows]
    return found + num_slots
