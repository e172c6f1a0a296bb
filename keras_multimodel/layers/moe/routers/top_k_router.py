"""Softmax, then top-k."""

import keras
from keras import ops

from keras_multimodel.layers.moe.routers.router import Router, Routing, softmax
from keras_multimodel.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class TopKRouter(Router):
    """Takes the `top_k` experts of largest probability, without noise.

    The loss is that of Switch, over all choices.

    Args:
        num_experts: number of experts, E.
        top_k: number of experts that each token takes, K.
        normalize: whether the gates of a token are scaled to sum to 1.
        kernel_initializer: initializer of the gate's weights.
        **kwargs: name and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(tokens, hidden_dim)`.
        mask: boolean, `inputs.shape[:-1]`, True at real tokens; None if all are.
        training: not used.

    Returns:
        A `Routing`.

    Example:
        >>> kmm.layers.TopKRouter(num_experts=8, top_k=2)(np.ones((3, 5, 16))).gates.shape
        (15, 2)

    Reference:
        Riquelme et al. 2021, arXiv 2106.05974 (softmax before top-k); Jiang et al. 2024, arXiv
        2401.04088 (normalized).
    """

    def __init__(
        self,
        num_experts: int,
        top_k: int = 4,
        normalize: bool = True,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(num_experts, top_k, kernel_initializer, **kwargs)
        self.normalize = normalize

    def route(self, tokens: Tensor, mask: Tensor, training: bool | None) -> Routing:
        logits = ops.matmul(tokens, self.gate_kernel)
        probabilities = softmax(logits)
        gates, experts = self.choose(probabilities)
        # Without it gates shrink with the number of experts, as the softmax is over all of them.
        if self.normalize:
            gates = gates / ops.sum(gates, axis=-1, keepdims=True)
        chosen = self.without_padding(experts, mask)
        loss = self.switch_loss(probabilities, chosen, mask)
        return Routing(chosen, gates * mask[:, None], logits, loss)

    def get_config(self):
        return {**super().get_config(), "normalize": self.normalize}
