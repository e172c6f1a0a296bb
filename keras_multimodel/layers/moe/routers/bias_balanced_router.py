"""Balance by a bias, without a loss."""

import keras
from keras import ops

from keras_multimodel.argument_checks import not_negative
from keras_multimodel.layers.moe.routers.router import Router, Routing
from keras_multimodel.ops.replicas import replica_sum
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class BiasBalancedRouter(Router):
    """Adds to each expert's score a bias that grows while the expert has too few tokens.

    The bias takes part in the choice and not in the gates, so no gradient of a balancing loss works
    against the task. After each training batch it moves by `update_rate` towards balance.

    Args:
        num_experts: number of experts, E.
        top_k: number of experts that each token takes, K.
        update_rate: step of the bias.
        kernel_initializer: initializer of the gate's weights.
        **kwargs: name and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(tokens, hidden_dim)`.
        mask: boolean, `inputs.shape[:-1]`, True at real tokens; None if all are.
        training: whether to move the bias.

    Returns:
        A `Routing`; its loss is 0.

    Example:
        >>> router = kmm.layers.BiasBalancedRouter(num_experts=8, top_k=2)
        >>> router(np.ones((3, 5, 16)), training=True).gates.shape
        (15, 2)

    Reference:
        Wang et al. 2024, arXiv 2408.15664, algorithm 1.
    """

    def __init__(
        self,
        num_experts: int,
        top_k: int = 4,
        update_rate: float = 0.001,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(num_experts, top_k, kernel_initializer, **kwargs)
        self.update_rate = not_negative("update_rate", update_rate)

    def build(self, input_shape: Shape):
        super().build(input_shape)
        # Every replica computes the same bias, from the counts of all of them.
        options = {"trainable": False, "aggregation": "only_first_replica"}
        self.bias = self.add_weight((self.num_experts,), "zeros", name="bias", **options)

    def route(self, tokens: Tensor, mask: Tensor, training: bool | None) -> Routing:
        logits = ops.matmul(tokens, self.gate_kernel)
        bias = ops.convert_to_tensor(self.bias)
        biased, experts = self.choose(ops.sigmoid(logits) + bias)
        # Back to the score itself: a bias in the gates would change what experts contribute.
        gates = biased - ops.take(bias, experts)
        chosen = self.without_padding(experts, mask)
        if training and self.trainable:  # a frozen router routes as it did
            counts = replica_sum(self.sum_by_expert(ops.ones_like(gates), chosen))
            # By the sign alone, so that the step does not grow with the batch.
            self.bias.assign(bias + self.update_rate * ops.sign(ops.mean(counts) - counts))
        return Routing(chosen, gates * mask[:, None], logits, ops.zeros((), "float32"))

    def get_config(self):
        return {**super().get_config(), "update_rate": self.update_rate}
