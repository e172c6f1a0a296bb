"""Limits on the tokens of an expert. Axis legend: T tokens, E experts, K chosen."""

from keras import ops


def within_capacity(experts, num_experts: int, capacity):
    """Returns a boolean `(T, K)`: whether a choice is among the first `capacity` of its expert.

    All first choices come before all second choices, and among equals earlier tokens come first,
    so that a token rather loses its second expert than another its first.

    Args:
        experts: int32 `(T, K)`, E where a place is empty.
        num_experts: E.
        capacity: how many tokens an expert takes, an integer scalar.

    Returns:
        A boolean `(T, K)`.
    """
    flat = ops.reshape(ops.transpose(experts), (-1,))
    order = ops.argsort(flat)
    sizes = ops.segment_sum(ops.ones_like(flat), flat, num_segments=num_experts + 1)
    first = ops.cumsum(sizes) - sizes
    position = ops.arange(ops.shape(flat)[0], dtype="int32")
    rank = position - ops.cast(ops.take(first, ops.take(flat, order)), "int32")
    rank = ops.take(rank, ops.argsort(order))
    kept = rank < ops.cast(capacity, "int32")
    return ops.transpose(ops.reshape(kept, (experts.shape[1], -1)))
