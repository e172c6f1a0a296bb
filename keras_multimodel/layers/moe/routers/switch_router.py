"""Switch routing: one expert for each token."""

import keras
from keras import ops

from keras_multimodel.argument_checks import not_negative
from keras_multimodel.layers.moe.routers.router import Routing
from keras_multimodel.layers.moe.routers.top_k_router import TopKRouter
from keras_multimodel.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SwitchRouter(TopKRouter):
    """Sends each token to its most probable expert, weighted by that probability.

    Args:
        num_experts: number of experts, E.
        jitter: in training the router's inputs are multiplied by uniform noise in `[1 - jitter, 1 +
            jitter]`.
        seed: seed of the jitter.
        kernel_initializer: initializer of the gate's weights.
        **kwargs: name and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(tokens, hidden_dim)`.
        mask: boolean, `inputs.shape[:-1]`, True at real tokens; None if all are.
        training: whether to apply jitter.

    Returns:
        A `Routing`.

    Example:
        >>> kmm.layers.SwitchRouter(num_experts=8)(np.ones((3, 5, 16))).indices.shape
        (15, 1)

    Reference:
        Fedus et al. 2021, arXiv 2101.03961, section 2.
    """

    def __init__(
        self,
        num_experts: int,
        jitter: float = 0.01,
        seed: int | None = None,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ):
        # Not normalized: a single gate would be 1, and the gate would learn nothing.
        super().__init__(num_experts, 1, False, kernel_initializer, **kwargs)
        self.jitter = not_negative("jitter", jitter)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def route(self, tokens: Tensor, mask: Tensor, training: bool | None) -> Routing:
        if training and self.jitter:
            # Of what the router sees only: the experts get the tokens as they are.
            shape, low, high = ops.shape(tokens), 1.0 - self.jitter, 1.0 + self.jitter
            tokens = tokens * keras.random.uniform(shape, low, high, seed=self.seed_generator)
        return super().route(tokens, mask, training)

    def get_config(self):
        config = {**super().get_config(), "jitter": self.jitter, "seed": self.seed}
        del config["top_k"], config["normalize"]  # always 1 and False, and no arguments
        return config
