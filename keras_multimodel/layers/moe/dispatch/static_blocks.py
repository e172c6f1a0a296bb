"""XLA: shapes that do not depend on what the router chose (TensorFlow with XLA, JAX on CPU).

Axis legend: T tokens, D hidden, R rows (T x K), G groups (experts), B blocks, K chosen.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from keras import ops

from keras_multimodel.layers.moe.dispatch.sorted_rows import sort_by_group
from keras_multimodel.ops.compiled import compiles_with_xla
from keras_multimodel.ops.gradients import custom_gradient
from keras_multimodel.typing import Tensor


def static_blocks(
    x: Tensor, experts: Tensor, gates: Tensor, kernels: Sequence[Tensor], forward: Callable
) -> Tensor:
    """Gathers each expert's tokens into blocks of one size, multiplies blocks, gathers back.

    Args:
        x: `(T, D)`.
        experts: int32 `(T, K)`, E where a place is empty.
        gates: `(T, K)`.
        kernels: see `sparse_feed_forward`.
        forward: `expert_forward` with its activation.

    Returns:
        `(T, D)`.
    """
    if compiles_with_xla() and is_few(x, experts, kernels[0].shape[0]):
        return all_experts(x, experts, gates, kernels, forward)
    num_experts, top_k = kernels[0].shape[0], experts.shape[-1]
    layout = blocked_layout(ops.reshape(experts, (-1,)), num_experts)
    slots_of_token = ops.reshape(layout.slot_of_row, (-1, top_k))
    rows = gather_rows(x, layout.row_of_slot // top_k, slots_of_token)
    blocks = ops.reshape(rows, (-1, layout.block_size, x.shape[-1]))
    chosen = [_take_matrices(kernel, layout.group_of_block) for kernel in kernels]
    outputs = ops.reshape(forward(blocks, chosen), (-1, x.shape[-1]))
    outputs = gather_rows(outputs, layout.slot_of_row, layout.row_of_slot[:, None])
    outputs = ops.reshape(outputs, (-1, top_k, x.shape[-1]))
    return ops.sum(outputs * gates[..., None], axis=1)


def is_few(x: Tensor, experts: Tensor, num_experts: int) -> bool:
    """Returns whether the tokens are few, and blocks would still copy every expert's matrices."""
    tokens, top_k = x.shape[0], experts.shape[-1]
    return tokens is not None and tokens <= 16 and num_experts <= top_k * min(tokens, 4)


def all_experts(
    x: Tensor, experts: Tensor, gates: Tensor, kernels: Sequence[Tensor], forward: Callable
) -> Tensor:
    """Sends all tokens through every expert, and takes what they chose.

    For the few tokens of a step of generation, where gathering the chosen matrices costs more than
    reading all of them in place: the demo's `generate` of 16 sentences takes 1.5 times as long with
    blocks (258 ms against 169 ms, 2 CPU cores).

    Args:
        x: `(T, D)`.
        experts: int32 `(T, K)`, E where a place is empty.
        gates: `(T, K)`.
        kernels: see `sparse_feed_forward`.
        forward: `expert_forward` with its activation.

    Returns:
        `(T, D)`.
    """
    total = ops.zeros_like(x)
    # In separate products: XLA hands a batched one, which is larger, to a pool of threads.
    for expert in range(kernels[0].shape[0]):
        chosen = ops.equal(experts, expert)
        gate = ops.sum(ops.where(chosen, gates, 0), axis=-1, keepdims=True)
        outputs = forward(x, [kernel[expert] for kernel in kernels])
        # An expert has no say in tokens that did not choose it, not even if it gives NaN.
        total += ops.where(ops.any(chosen, axis=-1, keepdims=True), outputs * gate, 0)
    return total


def batched_experts(
    x: Tensor, experts: Tensor, gates: Tensor, kernels: Sequence[Tensor], forward: Callable
) -> Tensor:
    """Sends all tokens through every expert, as `all_experts` does, in few operations.

    For models that are exported: converters take minutes for graphs of thousands of nodes.

    Args:
        x: `(T, D)`.
        experts: int32 `(T, K)`, E where a place is empty.
        gates: `(T, K)`.
        kernels: see `sparse_feed_forward`.
        forward: `expert_forward` with its activation.

    Returns:
        `(T, D)`.
    """
    numbers = ops.arange(kernels[0].shape[0], dtype="int32")[:, None, None]
    chosen = ops.equal(experts[None], numbers)  # (E, T, K)
    gate = ops.sum(ops.where(chosen, gates[None], 0), axis=-1, keepdims=True)
    outputs = forward(x[None], kernels)
    return ops.sum(ops.where(ops.any(chosen, axis=-1, keepdims=True), outputs * gate, 0), axis=0)


class BlockedLayout(NamedTuple):
    """Where the rows of each group lie when every group is padded to whole blocks.

    Attributes:
        block_size: rows of a block; there are B blocks, and B * block_size slots.
        group_of_block: int32 `(B,)`.
        row_of_slot: int32 `(B * block_size,)`, the row that a slot holds; R for an empty one.
        slot_of_row: int32 `(R,)`; B * block_size for a row without a group.
    """

    block_size: int | Tensor
    group_of_block: Tensor
    row_of_slot: Tensor
    slot_of_row: Tensor


def blocked_layout(groups: Tensor, num_groups: int) -> BlockedLayout:
    """Lays rows out in blocks that hold rows of one group each.

    A block has about R / G rows, so that at most 2 G blocks, and no more than R, are needed however
    the rows fall into groups. The shapes depend on R and G alone. The multiplications are at most
    about twice those that the rows need, and so are the matrices.

    Args:
        groups: int32 `(R,)`, the group of each row, G for a row without one.
        num_groups: G.

    Returns:
        A `BlockedLayout`.
    """
    num_rows = ops.shape(groups)[0]
    # Not 0 where there is no row at all: it divides below.
    block_size = _at_least_one((num_rows + num_groups - 1) // num_groups)
    # Every group but the empty ones may have one block that is not full.
    num_blocks = (num_rows + _least(num_groups, num_rows) * (block_size - 1)) // block_size
    num_slots = num_blocks * block_size
    order, sizes, rank = sort_by_group(groups, num_groups)
    blocks = (sizes + block_size - 1) // block_size
    last_block = ops.cumsum(blocks)
    first_slot = ops.append((last_block - blocks) * block_size, [num_slots])
    # A row's slot: the first one of its group, plus its rank among the rows of the group.
    slot = ops.minimum(ops.take(first_slot, ops.take(groups, order)) + rank, num_slots)
    slot_of_row = ops.take(slot, ops.argsort(order))
    # The inverse, by a sum over each slot's one row: shifted, so that empty slots, 0, become R.
    row_of_slot = ops.segment_sum(order - num_rows, slot, num_segments=num_slots + 1)[:num_slots]
    block = ops.arange(num_blocks, dtype="int32")
    group_of_block = ops.minimum(ops.searchsorted(last_block, block, "right"), num_groups - 1)
    group_of_block = ops.cast(group_of_block, "int32")
    return BlockedLayout(block_size, group_of_block, row_of_slot + num_rows, slot_of_row)


def _least(number, size):
    """Returns the smaller of an integer and a size, which is a tensor where it is dynamic."""
    return min(number, size) if isinstance(size, int) else ops.minimum(number, size)


def _at_least_one(size):
    """Returns a size, an integer or a tensor, or 1 if it is 0."""
    return max(size, 1) if isinstance(size, int) else ops.maximum(size, 1)


def _take_matrices(kernel, indices):
    """Gathers matrices as flat rows: TensorFlow leaves the gradient of a plain gather in slices."""
    flat = ops.reshape(kernel, (kernel.shape[0], -1))
    return ops.reshape(ops.take(flat, indices, axis=0), (-1, *kernel.shape[1:]))


def gather_rows(x: Tensor, sources: Tensor, destinations: Tensor) -> Tensor:
    """Gathers rows, with a gradient that gathers, too: XLA's scatter is a loop over rows on CPUs.

    With automatic differentiation, the scatters take a fifth of the demo's step on JAX.

    Args:
        x: `(N, D)`.
        sources: int32 `(M,)`, the row of `x` that each row of the result has; N for a row of zeros.
        destinations: int32 `(N, K)`, the rows of the result that have each row of `x`; M for none.

    Returns:
        `(M, D)`.
    """

    @custom_gradient
    def gather(x):
        def gradient(dy):
            return ops.sum(ops.take(_with_zeros(dy), destinations, axis=0), axis=1)

        return ops.take(_with_zeros(x), sources, axis=0), gradient

    return gather(x)


def _with_zeros(x):
    """Returns `x` `(R, D)` with a row of zeros after its last, for indices of R."""
    return ops.concatenate([x, ops.zeros((1, x.shape[-1]), x.dtype)], axis=0)
