"""The experts' feed-forward: each token through the experts that it chose, and no others.

Nothing is dropped, and no array has the size of tokens x experts x width: the work is that of the
chosen experts. Only the few tokens of a step of generation meet all experts, where reading matrices
in place is less work than gathering those chosen.

Axis legend: T tokens, D hidden, H intermediate, E experts, K chosen, C tokens of an expert.
"""

import keras
from keras import ops

from keras_multimodel.layers.moe.dispatch.grouped_matmul import (
    blocked_layout,
    grouped_matmul,
    take_matrices,
    use_blocks,
    with_zeros,
)
from keras_multimodel.ops.compiled import compiles_with_xla


def sparse_feed_forward(x, experts, gates, kernels, activation):
    """Sums the outputs of each token's experts, weighted by its gates.

    One expert is `activation(x @ kernel_in) @ kernel_out`, or with three kernels
    `(activation(x @ kernel_gate) * (x @ kernel_in)) @ kernel_out`.

    Args:
        x: `(T, D)`.
        experts: int32 `(T, K)`, E where a place is empty.
        gates: `(T, K)`, the weight of each choice.
        kernels: `kernel_in` and `kernel_out`, or `kernel_in`, `kernel_gate` and `kernel_out`; in
            and gate are `(E, D, H)`, out is `(E, H, D)`.
        activation: an elementwise function.

    Returns:
        `(T, D)`, the dtype of `x`.
    """
    gates = ops.cast(gates, x.dtype)
    if compiles_with_xla() and _is_few(x, experts, kernels[0].shape[0]):
        return _all_experts_feed_forward(x, experts, gates, kernels, activation)
    if use_blocks():
        return _blocked_feed_forward(x, experts, gates, kernels, activation)
    if keras.backend.backend() == "tensorflow":
        from keras_multimodel.layers.moe.dispatch import tensorflow_experts

        return tensorflow_experts.sparse_feed_forward(x, experts, gates, kernels, activation)
    return _sorted_feed_forward(x, experts, gates, kernels, activation)


def _is_few(x, experts, num_experts: int) -> bool:
    """Returns whether the tokens are few, and blocks would still copy every expert's matrices."""
    tokens, top_k = x.shape[0], experts.shape[-1]
    return tokens is not None and tokens <= 16 and num_experts <= top_k * min(tokens, 4)


def expert_choice_feed_forward(x, tokens, gates, kernels, activation):
    """Sums for each token the outputs of the experts that chose it, weighted by their gates.

    Args:
        x: `(T, D)`.
        tokens: int32 `(E, C)`, the tokens of each expert.
        gates: `(E, C)`, the weight of each choice.
        kernels: as in `sparse_feed_forward`.
        activation: an elementwise function.

    Returns:
        `(T, D)`, the dtype of `x`.
    """
    rows = ops.take(x, tokens, axis=0)
    outputs = expert_forward(ops.matmul, rows, kernels, activation)
    outputs = outputs * ops.cast(gates, x.dtype)[..., None]
    outputs = ops.reshape(outputs, (-1, x.shape[-1]))
    # One segment more than there are tokens: of 0 segments, torch makes as many as it likes.
    segments = ops.shape(x)[0] + 1
    return ops.segment_sum(outputs, ops.reshape(tokens, (-1,)), num_segments=segments)[:-1]


def expert_forward(matmul, x, kernels, activation):
    """Returns the output of experts for `x`, given how to multiply by their kernels."""
    if len(kernels) == 2:
        hidden = activation(matmul(x, kernels[0]))
    else:
        hidden = activation(matmul(x, kernels[1])) * matmul(x, kernels[0])
    return matmul(hidden, kernels[-1])


def _sorted_feed_forward(x, experts, gates, kernels, activation):
    """Sorts rows by expert, multiplies group by group, and puts them back in order."""
    num_experts, top_k = kernels[0].shape[0], experts.shape[-1]
    flat = ops.reshape(experts, (-1,))
    order = ops.argsort(flat)
    sizes = ops.segment_sum(ops.ones_like(flat), flat, num_segments=num_experts + 1)
    sizes = ops.cast(sizes[:num_experts], "int32")
    rows = ops.take(x, order // top_k, axis=0)
    outputs = expert_forward(
        lambda values, kernel: grouped_matmul(values, kernel, sizes), rows, kernels, activation
    )
    outputs = ops.take(outputs, ops.argsort(order), axis=0)
    outputs = ops.reshape(outputs, (-1, top_k, x.shape[-1]))
    return ops.sum(outputs * gates[..., None], axis=1)


def _blocked_feed_forward(x, experts, gates, kernels, activation):
    """Gathers each expert's tokens into blocks of one size, multiplies blocks, gathers back."""
    num_experts, top_k = kernels[0].shape[0], experts.shape[-1]
    layout = blocked_layout(ops.reshape(experts, (-1,)), num_experts)
    rows = ops.take(with_zeros(x), layout.row_of_slot // top_k, axis=0)
    blocks = ops.reshape(rows, (-1, layout.block_size, x.shape[-1]))
    chosen = [take_matrices(kernel, layout.group_of_block) for kernel in kernels]
    outputs = ops.reshape(expert_forward(ops.matmul, blocks, chosen, activation), (-1, x.shape[-1]))
    outputs = ops.take(with_zeros(outputs), layout.slot_of_row, axis=0)
    outputs = ops.reshape(outputs, (-1, top_k, x.shape[-1]))
    return ops.sum(outputs * gates[..., None], axis=1)


def _all_experts_feed_forward(x, experts, gates, kernels, activation):
    """Sends all tokens through every expert, and takes what they chose.

    In separate products: XLA hands a batched one, which is larger, to a pool of threads.
    """
    total = ops.zeros_like(x)
    for expert in range(kernels[0].shape[0]):
        chosen = ops.equal(experts, expert)
        gate = ops.sum(ops.where(chosen, gates, 0), axis=-1, keepdims=True)
        outputs = expert_forward(ops.matmul, x, [kernel[expert] for kernel in kernels], activation)
        # An expert has no say in tokens that did not choose it, not even if it gives NaN.
        total += ops.where(ops.any(chosen, axis=-1, keepdims=True), outputs * gate, 0)
    return total
