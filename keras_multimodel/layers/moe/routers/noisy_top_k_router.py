"""Noisy top-k gating."""

import keras
from keras import ops

from keras_multimodel.argument_checks import not_negative
from keras_multimodel.layers.moe.balance_losses import importance_loss, load_loss
from keras_multimodel.layers.moe.routers.router import Router, Routing, softmax
from keras_multimodel.layers.sublayers import attributes
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class NoisyTopKRouter(Router):
    """Adds learned noise to the scores in training, keeps the best `top_k`, softmaxes over those.

    The loss is CV^2 of importance plus CV^2 of load, over real tokens of the global batch. The
    gate's weights start at zero, as in the authors' code: at first only the noise chooses, and
    every expert is as good as any other. Outside training the lowest index wins ties.

    Args:
        num_experts: number of experts, E.
        top_k: number of experts that each token takes, K. With 1 every gate is 1, and the gate
            learns from the loss alone: use `SwitchRouter` instead.
        noise_scale: factor of the noise. With 0.0 training is deterministic, and the load is as
            smooth as with 1.0; then pass a `kernel_initializer` other than zeros.
        noise_epsilon: smallest standard deviation of the noise.
        seed: seed of the noise.
        kernel_initializer: initializer of the gate's weights; those of the noise start at zero.
        **kwargs: name and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(tokens, hidden_dim)`.
        mask: boolean, `inputs.shape[:-1]`, True at real tokens; None if all are.
        training: whether to add noise.
        noise: standard normal `(tokens, num_experts)` to use instead of drawing it.

    Returns:
        A `Routing`.

    Example:
        >>> kmm.layers.NoisyTopKRouter(num_experts=8, top_k=2)(np.ones((3, 5, 16))).indices.shape
        (15, 2)

    Reference:
        Shazeer et al. 2017, arXiv 1701.06538, section 2.1 and appendix A.
    """

    def __init__(
        self,
        num_experts: int,
        top_k: int = 4,
        noise_scale: float = 1.0,
        noise_epsilon: float = 1e-2,
        seed: int | None = None,
        kernel_initializer: str | keras.initializers.Initializer = "zeros",
        **kwargs,
    ):
        super().__init__(num_experts, top_k, kernel_initializer, **kwargs)
        self.noise_scale = not_negative("noise_scale", noise_scale)
        self.noise_epsilon = not_negative("noise_epsilon", noise_epsilon)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Shape):
        super().build(input_shape)
        self.noise_kernel = self.add_weight(
            name="noise_kernel", shape=self.gate_kernel.shape, initializer="zeros"
        )

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = None,
        noise: Tensor | None = None,
    ):
        tokens = ops.reshape(inputs, (-1, inputs.shape[-1]))
        return self.route(tokens, self.token_weights(tokens, mask), training, noise)

    def route(
        self, tokens: Tensor, mask: Tensor, training: bool | None, noise: Tensor | None = None
    ) -> Routing:
        logits = ops.matmul(tokens, self.gate_kernel)
        deviation, scores = None, logits
        if training:
            # At first, with weights of zero, softplus(0) = 0.69 for every expert.
            deviation = ops.softplus(ops.matmul(tokens, self.noise_kernel)) + self.noise_epsilon
            # Without noise the load is still smooth: its deviation is that of scale 1.
            deviation = deviation * (self.noise_scale or 1.0)
            scores = self._add_noise(logits, deviation, noise)
        # One more than needed: the load asks what a token's next best score was.
        values, experts = self.choose(scores, min(self.top_k + 1, self.num_experts))
        # Over the chosen scores alone, with their noise: the noise learns from the task too.
        gates = softmax(values[:, : self.top_k]) * mask[:, None]
        chosen = self.without_padding(experts[:, : self.top_k], mask)
        loss = importance_loss(self.sum_by_expert(gates, chosen))
        in_top_k = self._probability_in_top_k(logits, scores, deviation, values)
        loss = loss + load_loss(ops.matmul(mask[None], in_top_k)[0])
        return Routing(chosen, gates, logits, loss)

    def get_config(self):
        return {**super().get_config(), **attributes(self, "noise_scale", "noise_epsilon", "seed")}

    def _add_noise(self, logits, deviation, noise):
        if self.noise_scale == 0:
            return logits
        if noise is None:
            noise = keras.random.normal(ops.shape(logits), seed=self.seed_generator)
        return logits + noise * deviation

    def _probability_in_top_k(self, logits, scores, deviation, values):
        """Returns `(T, E)`, how likely an expert is chosen if only its own noise is drawn again."""
        if self.top_k == self.num_experts:
            # Every expert is chosen, and there is no next best score to compare with.
            return ops.ones_like(logits)
        # A chosen expert must stay above the best one that was not chosen, any other must get above
        # the worst one that was.
        threshold_if_in = values[:, self.top_k :]
        threshold_if_out = values[:, self.top_k - 1 : self.top_k]
        is_in = scores > threshold_if_in
        margin = logits - ops.where(is_in, threshold_if_in, threshold_if_out)
        if deviation is None:
            return (ops.sign(margin) + 1.0) / 2.0
        # The authors' 1e-20 keeps 0 / 0 out where neither noise nor its epsilon is left.
        return (ops.erf(margin / (2.0**0.5 * deviation + 1e-20)) + 1.0) / 2.0
