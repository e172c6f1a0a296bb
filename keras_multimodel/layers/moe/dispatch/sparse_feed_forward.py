"""The entry of dispatch: each token passes through the experts that it chose, and no others.

Nothing is dropped, and no array has the size of tokens x experts x width: the work is that of the
chosen experts. Bringing the tokens of an expert together is what backends do differently, so each
way has a file of its own.

Axis legend: T tokens, D hidden, H intermediate, E experts, K chosen, C tokens of an expert.
"""

import functools
from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_multimodel.layers.moe.dispatch import sorted_rows, static_blocks, tensorflow_groups
from keras_multimodel.ops.compiled import jax_on_accelerator, under_xla
from keras_multimodel.ops.portable import with_plain_shapes
from keras_multimodel.typing import Tensor


def sparse_feed_forward(
    x: Tensor, experts: Tensor, gates: Tensor, kernels: Sequence[Tensor], activation: Callable
) -> Tensor:
    """Sums the outputs of each token's experts, weighted by its gates.

    Args:
        x: `(T, D)`.
        experts: int32 `(T, K)`, E where a place is empty.
        gates: `(T, K)`, the weight of each choice.
        kernels: `kernel_in` and `kernel_out`, or `kernel_in`, `kernel_gate` and `kernel_out`; in
            and gate are `(E, D, H)`, out is `(E, H, D)`. See `expert_forward`.
        activation: an elementwise function.

    Returns:
        `(T, D)`, the dtype of `x`.
    """
    forward = functools.partial(expert_forward, activation=activation)
    return _way()(x, experts, ops.cast(gates, x.dtype), kernels, forward)


def _way() -> Callable:
    """Returns how the backend that runs groups tokens."""
    if with_plain_shapes():
        return static_blocks.batched_experts
    # On CPUs XLA lowers `jax.lax.ragged_dot` to products of every row with every matrix.
    if under_xla() and not jax_on_accelerator():
        return static_blocks.static_blocks
    if keras.backend.backend() == "tensorflow":
        return tensorflow_groups.tensorflow_groups
    return sorted_rows.sorted_rows


def expert_choice_feed_forward(
    x: Tensor, tokens: Tensor, gates: Tensor, kernels: Sequence[Tensor], activation: Callable
) -> Tensor:
    """Sums for each token the outputs of the experts that chose it, weighted by their gates.

    Every expert has the same number of tokens, so one batched product serves all backends.

    Args:
        x: `(T, D)`.
        tokens: int32 `(E, C)`, the tokens of each expert.
        gates: `(E, C)`, the weight of each choice.
        kernels: as in `sparse_feed_forward`.
        activation: an elementwise function.

    Returns:
        `(T, D)`, the dtype of `x`.
    """
    outputs = expert_forward(ops.take(x, tokens, axis=0), kernels, activation)
    outputs = outputs * ops.cast(gates, x.dtype)[..., None]
    outputs = ops.reshape(outputs, (-1, x.shape[-1]))
    # One segment more than there are tokens: torch takes `num_segments=0` for "not given".
    segments = ops.shape(x)[0] + 1
    return ops.segment_sum(outputs, ops.reshape(tokens, (-1,)), num_segments=segments)[:-1]


def expert_forward(
    x: Tensor, kernels: Sequence[Tensor], activation: Callable, matmul: Callable = ops.matmul
) -> Tensor:
    """Computes what an expert does to its tokens.

    That is `activation(x @ kernel_in) @ kernel_out`, or with three kernels
    `(activation(x @ kernel_gate) * (x @ kernel_in)) @ kernel_out`.

    Args:
        x: the tokens of one expert, or of several if `matmul` knows which rows meet which matrix.
        kernels: in, gate (or not) and out.
        activation: an elementwise function.
        matmul: the product of rows and a kernel.

    Returns:
        The outputs, in the shape of `x`.
    """
    if len(kernels) == 2:
        hidden = activation(matmul(x, kernels[0]))
    else:
        hidden = activation(matmul(x, kernels[1])) * matmul(x, kernels[0])
    return matmul(hidden, kernels[-1])


def within_capacity(experts: Tensor, num_experts: int, capacity: Tensor) -> Tensor:
    """Tells which choices are among the first `capacity` of their expert.

    All first choices come before all second choices, and among equals earlier tokens come first:
    a token rather loses its second expert than another token its first.

    Args:
        experts: int32 `(T, K)`, E where a place is empty.
        num_experts: E.
        capacity: how many tokens an expert takes, an integer scalar.

    Returns:
        A boolean `(T, K)`.
    """
    # Transposed: choices lie in the order in which experts take them, and sorting keeps it.
    flat = ops.reshape(ops.transpose(experts), (-1,))
    order, _, rank = sorted_rows.sort_by_group(flat, num_experts)
    kept = ops.take(rank, ops.argsort(order)) < ops.cast(capacity, "int32")
    return ops.transpose(ops.reshape(kept, (experts.shape[1], -1)))
