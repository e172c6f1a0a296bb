"""Experts choose tokens.

Axis legend: B batch, L length, T = B x L tokens, D hidden, E experts, C tokens of an expert.
"""

import keras
from keras import ops

from keras_multimodel.layers.moe.routers.router import Router, Routing, softmax
from keras_multimodel.ops.numerics import stable_top_k
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ExpertChoiceRouter(Router):
    """Lets every expert take the tokens that it scores highest: balanced by construction.

    Experts choose within each example, so that an output depends on no other example of the batch:
    of n real tokens an expert takes ceil(n * top_k / num_experts). A token may get any number of
    experts, even none. Whether it is chosen depends on later tokens, so `MoELayer` refuses this
    router where it must be causal.

    Args:
        num_experts: number of experts, E.
        top_k: number of experts that a token takes on average.
        kernel_initializer: initializer of the gate's weights.
        **kwargs: name and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`.
        mask: boolean `(batch, length)`, True at real tokens; None if all are.
        training: not used.

    Returns:
        A `Routing` whose `indices` are the tokens of each expert; its loss is 0.

    Example:
        >>> router = kmm.layers.ExpertChoiceRouter(num_experts=8, top_k=2)
        >>> router(np.ones((3, 12, 16))).indices.shape  # 3 of 12 tokens, in 3 examples
        (8, 9)

    Reference:
        Zhou et al. 2022, arXiv 2202.09368.
    """

    position_wise = False
    experts_choose = True

    def build(self, input_shape: Shape):
        _check_rank(input_shape)
        super().build(input_shape)

    def call(self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None):
        _check_rank(inputs.shape)
        batch, length = ops.shape(inputs)[:2]
        if mask is None:
            mask = ops.ones_like(inputs[..., 0])
        logits = ops.matmul(inputs, self.gate_kernel)
        real = ops.cast(mask, logits.dtype)
        # Over the experts, as if tokens chose; padding scores 0, and so comes last.
        scores = softmax(logits) * real[..., None]
        # The shape follows from the padded length; the quota of each example from its real tokens.
        capacity = (length * self.top_k + self.num_experts - 1) // self.num_experts
        gates, tokens = stable_top_k(ops.transpose(scores, (0, 2, 1)), capacity)
        quota = ops.ceil(ops.sum(real, axis=1) * self.top_k / self.num_experts)
        within = ops.arange(capacity, dtype=quota.dtype)[None] < quota[:, None]
        gates = gates * ops.cast(within, gates.dtype)[:, None]
        # Experts see the tokens of all examples in one row: example b starts at b * length.
        first = ops.arange(batch, dtype="int32") * length
        tokens = ops.cast(tokens, "int32") + first[:, None, None]
        return Routing(
            self._by_expert(tokens),
            self._by_expert(gates),
            ops.reshape(logits, (-1, self.num_experts)),
            ops.zeros((), "float32"),
        )

    def _by_expert(self, x):
        """Maps `(B, E, C)` to `(E, B * C)`."""
        return ops.reshape(ops.transpose(x, (1, 0, 2)), (self.num_experts, -1))


def _check_rank(shape):
    if len(shape) != 3:
        raise ValueError(
            "`inputs` must have shape (batch, length, hidden_dim), since experts choose within "
            f"each example. Received: inputs.shape={tuple(shape)}"
        )
