"""Torch, and JAX on accelerators: rows sorted by expert, and the backend's own grouped product.

Axis legend: T tokens, D hidden, R rows, G groups, E experts, K chosen.
"""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_multimodel.typing import Tensor


def sorted_rows(
    x: Tensor, experts: Tensor, gates: Tensor, kernels: Sequence[Tensor], forward: Callable
) -> Tensor:
    """Sorts rows by expert, multiplies group by group, and puts them back in order.

    Args:
        x: `(T, D)`.
        experts: int32 `(T, K)`, E where a place is empty.
        gates: `(T, K)`.
        kernels: see `sparse_feed_forward`.
        forward: `expert_forward` with its activation.

    Returns:
        `(T, D)`.
    """
    num_experts, top_k = kernels[0].shape[0], experts.shape[-1]
    order, sizes, _ = sort_by_group(ops.reshape(experts, (-1,)), num_experts)
    rows = ops.take(x, order // top_k, axis=0)
    outputs = forward(rows, kernels, matmul=lambda v, kernel: grouped_matmul(v, kernel, sizes))
    # Empty places are zero here whatever the activation makes of 0: no product includes them.
    outputs = ops.take(outputs, ops.argsort(order), axis=0)
    outputs = ops.reshape(outputs, (-1, top_k, x.shape[-1]))
    return ops.sum(outputs * gates[..., None], axis=1)


def sort_by_group(groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sorts rows by their group.

    Args:
        groups: int32 `(R,)`, the group of each row, G for a row without one.
        num_groups: G.

    Returns:
        int32: the rows in the order of their groups `(R,)`, those without one last; the number of
        rows of each group `(G,)`; and the rank of each sorted row within its group `(R,)`.
    """
    order = ops.cast(ops.argsort(groups), "int32")
    # One segment more, which is cut off: rows without a group would be out of bounds.
    sizes = ops.segment_sum(ops.ones_like(groups), groups, num_segments=num_groups + 1)
    sizes = ops.cast(sizes, "int32")[:num_groups]
    first = ops.append(ops.cumsum(sizes) - sizes, [0])
    position = ops.arange(ops.shape(groups)[0], dtype="int32")
    return order, sizes, position - ops.take(first, ops.take(groups, order))


def grouped_matmul(x: Tensor, kernel: Tensor, group_sizes: Tensor) -> Tensor:
    """Multiplies the rows of each group by the group's matrix.

    Args:
        x: `(R, in)`, sorted by group; rows past the last group belong to none.
        kernel: `(G, in, out)`.
        group_sizes: int32 `(G,)`, rows of each group.

    Returns:
        `(R, out)`, zeros for rows without a group.
    """
    if keras.backend.backend() == "torch" and not _torch_has_grouped(x, kernel):
        return _torch_loop(x, kernel, group_sizes)
    grouped = (ops.arange(x.shape[0]) < ops.sum(group_sizes))[:, None]
    # Both products leave rows without a group undefined, and so the gradients from them.
    rows = ops.where(grouped, x, 0)
    return ops.where(grouped, _product(rows, kernel, group_sizes), 0)


def _product(rows, kernel, group_sizes):
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.ragged_dot(rows, kernel, group_sizes)
    import torch

    ends = torch.cumsum(group_sizes, 0).to(torch.int32)
    return torch.nn.functional.grouped_mm(rows, kernel, offs=ends)


def _torch_has_grouped(x, kernel) -> bool:
    """Returns whether torch has a grouped product for these: rows must lie at whole 16 bytes."""
    import torch

    if x.dtype == torch.float64:
        return False
    widths = kernel.shape[1] * x.element_size(), kernel.shape[2] * x.element_size()
    return hasattr(torch.nn.functional, "grouped_mm") and all(w % 16 == 0 for w in widths)


def _torch_loop(x, kernel, group_sizes):
    import torch

    # Waits for the device: that is why this is the way of last resort.
    sizes = group_sizes.tolist()
    *parts, rest = torch.split(x, [*sizes, x.shape[0] - sum(sizes)])
    products = [part @ matrix for part, matrix in zip(parts, kernel.unbind(0))]
    return torch.cat([*products, rest.new_zeros(rest.shape[0], kernel.shape[-1])])
