"""The mixture of experts. Axis legend: T tokens, D hidden, H intermediate, E experts, K chosen."""

import keras
from keras import ops

from keras_multimodel.layers.balance_losses import router_z_loss
from keras_multimodel.layers.feed_forward import check_block_input, clone_initializer
from keras_multimodel.layers.routers.noisy_top_k_router import NoisyTopKRouter
from keras_multimodel.layers.routers.router import Router, check_positive_int
from keras_multimodel.ops.sparse_feed_forward import sparse_feed_forward

ROUTERS = {
    "noisy_top_k": NoisyTopKRouter,
}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class MoELayer(keras.layers.Layer):
    """Passes each token through the few experts that a router chooses for it, and no others.

    Computes `LN(x + sum over the chosen experts of gate * activation(x W_in) W_out)` without biases. It maps `(batch, length, hidden_dim)`
    to itself. Every choice is carried out: nothing is dropped, in training and in inference, so that in inference an
    output does not depend on the rest of the batch. Padding takes no expert and no part in the losses.

    The router's balancing loss is added in training only, as the authors do: `evaluate` reports the loss of the task alone.

    Args:
        hidden_dim: width of inputs and outputs.
        num_experts: number of experts.
        top_k: number of experts that each token takes. A router passed as an instance has its own.
        intermediate_dim: width inside an expert; None for `hidden_dim`, as in the authors' code.
        router: "noisy_top_k", or a `Router`.
        activation: name of, or function for, the experts' activation.
        balance_loss_weight: factor of the router's balancing loss.
        z_loss_weight: factor of the router z-loss.
        kernel_initializer: initializer of each expert's kernels.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(batch, hidden_dim)`.
        mask: boolean, `inputs.shape[:-1]`, True at real tokens; None if all are.
        training: whether to train: noise, and the losses.

    Returns:
        A tensor of the shape of `inputs`.

    Example:
        >>> MoELayer(64, num_experts=16, top_k=2)(keras.random.normal((2, 5, 64))).shape
        (2, 5, 64)

    Reference:
        Shazeer et al. 2017, arXiv 1701.06538; Kaiser et al. 2017, arXiv 1706.05137, section 2.3.
    """

    position_wise = True

    def __init__(
        self,
        hidden_dim: int,
        num_experts: int,
        top_k: int = 4,
        intermediate_dim: int | None = None,
        router="noisy_top_k",
        activation="relu",
        balance_loss_weight: float = 0.01,
        z_loss_weight: float = 0.0,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_int("hidden_dim", hidden_dim)
        check_positive_int("num_experts", num_experts)
        if intermediate_dim is not None:
            check_positive_int("intermediate_dim", intermediate_dim)
        for name, value in (
            ("balance_loss_weight", balance_loss_weight),
            ("z_loss_weight", z_loss_weight),
        ):
            if not value >= 0:
                raise ValueError(f"`{name}` must not be negative. Received: {name}={value}")
        self.hidden_dim = hidden_dim
        self.num_experts = num_experts
        self.intermediate_dim = intermediate_dim
        self._router_config = router if isinstance(router, str) else None
        self.router = self._make_router(router, num_experts, top_k)
        self.top_k = self.router.top_k
        self.activation = keras.activations.get(activation)
        self.balance_loss_weight = balance_loss_weight
        self.z_loss_weight = z_loss_weight
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        check_block_input(input_shape, self.hidden_dim)
        width = self.intermediate_dim or self.hidden_dim
        if not self.router.built:
            self.router.build(input_shape)
        self.kernel_in = self._add_kernel("kernel_in", self.hidden_dim, width)
        self.kernel_out = self._add_kernel("kernel_out", width, self.hidden_dim)
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-6, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(input_shape)

    def call(self, inputs, mask=None, training=None):
        self._check_mask(inputs, mask)
        routing = self.router(inputs, mask=mask, training=training)
        if training:
            self._add_losses(inputs, mask, routing)
        tokens = ops.reshape(inputs, (-1, self.hidden_dim))
        kernels = [ops.convert_to_tensor(k) for k in (self.kernel_in, self.kernel_out)]
        outputs = sparse_feed_forward(
            tokens, routing.indices, routing.gates, kernels, self.activation
        )
        return self.norm(ops.add(inputs, ops.reshape(outputs, ops.shape(inputs))))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_experts": self.num_experts,
            "top_k": self.top_k,
            "intermediate_dim": self.intermediate_dim,
            "router": self._router_config or keras.saving.serialize_keras_object(self.router),
            "activation": keras.activations.serialize(self.activation),
            "balance_loss_weight": self.balance_loss_weight,
            "z_loss_weight": self.z_loss_weight,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("router"), dict):
            config["router"] = keras.saving.deserialize_keras_object(config["router"])
        return cls(**config)

    @staticmethod
    def _make_router(router, num_experts, top_k):
        if isinstance(router, str):
            if router not in ROUTERS:
                names = ", ".join(sorted(ROUTERS))
                raise ValueError(
                    f"`router` must be one of {names}, or a Router. Received: router={router}"
                )
            return ROUTERS[router](num_experts, top_k, name="router")
        if not isinstance(router, Router):
            raise ValueError(f"`router` must be a name or a Router. Received: router={router}")
        if router.num_experts != num_experts:
            raise ValueError(
                "`router` must have as many experts as the layer. Received: "
                f"router.num_experts={router.num_experts}, num_experts={num_experts}"
            )
        return router

    def _add_kernel(self, name, rows, columns):
        return self.add_weight(
            name=name,
            shape=(self.num_experts, rows, columns),
            initializer=_per_expert(self.kernel_initializer, self.num_experts),
        )

    def _add_losses(self, inputs, mask, routing):
        self.add_loss(self.balance_loss_weight * ops.cast(routing.loss, "float32"))
        if self.z_loss_weight:
            weights = self.router.token_weights(routing.logits, mask)
            self.add_loss(self.z_loss_weight * router_z_loss(routing.logits, weights))

    @staticmethod
    def _check_mask(inputs, mask):
        if mask is not None and len(mask.shape) != len(inputs.shape) - 1:
            raise ValueError(
                "`mask` must have the shape of `inputs` without its last axis. Received: "
                f"mask.shape={tuple(mask.shape)}, inputs.shape={tuple(inputs.shape)}"
            )


def _per_expert(initializer, num_experts):
    """Returns `initializer` for stacked kernels, each drawn as if it stood alone.

    Keras takes the leading axis for a receptive field and shrinks the variance by it.
    """
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return clone_initializer(initializer)
    return keras.initializers.VarianceScaling(
        scale=initializer.scale * num_experts,
        mode=initializer.mode,
        distribution=initializer.distribution,
        seed=initializer.seed,
    )
