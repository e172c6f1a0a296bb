"""The mixture of experts: routing, the experts, and the norm.

What stands beside it: `routers/` choose experts, `dispatch/` brings tokens to them,
`balance_losses.py` has the losses, `statistics.py` the metrics.

Axis legend: T tokens (batch x length), D hidden, H intermediate, E experts, K chosen, C tokens of
an expert.
"""

from collections.abc import Callable

import keras
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import (
    block_shape,
    not_negative,
    optional_positive_int,
    positive,
    positive_int,
)
from keras_multimodel.layers.adaptable import OwnMatrices
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.moe import statistics
from keras_multimodel.layers.moe.balance_losses import router_z_loss
from keras_multimodel.layers.moe.dispatch import sparse_feed_forward as dispatch
from keras_multimodel.layers.moe.routers.bias_balanced_router import BiasBalancedRouter
from keras_multimodel.layers.moe.routers.expert_choice_router import ExpertChoiceRouter
from keras_multimodel.layers.moe.routers.noisy_top_k_router import NoisyTopKRouter
from keras_multimodel.layers.moe.routers.router import Router, Routing
from keras_multimodel.layers.moe.routers.switch_router import SwitchRouter
from keras_multimodel.layers.moe.routers.top_k_router import TopKRouter
from keras_multimodel.layers.sublayers import CompositeLayer, attributes, scaled_initializer
from keras_multimodel.ops.numerics import layer_norm
from keras_multimodel.ops.replicas import replica_sum
from keras_multimodel.typing import Shape, Tensor

# The names that `MoELayer(router=...)` accepts.
ROUTERS = {
    "bias_balanced": BiasBalancedRouter,
    "expert_choice": ExpertChoiceRouter,
    "noisy_top_k": NoisyTopKRouter,
    "switch": SwitchRouter,
    "top_k": TopKRouter,
}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class MoELayer(OwnMatrices, CompositeLayer, _keras_compat.OwnReplicaLosses):
    """Passes each token through the few experts that a router chooses for it, and no others.

    Computes `LN(x + sum over the chosen experts of gate * activation(x W_in) W_out)`, without
    biases, and maps `(batch, length, hidden_dim)` to itself. No choice is dropped, unless
    `capacity_factor` asks for it, and then in training only: in inference an output does not depend
    on the rest of the batch. Padding takes no expert and no part in the losses. The router runs in
    float32 under every dtype policy but float64.

    The balancing loss is computed over the global batch, and added in training only, as the authors
    do: `evaluate` reports the loss of the task alone.

    The logs of `fit` and `evaluate` show, prefixed with the layer's place in the model: `max_load`
    and `min_load`, the real tokens of the busiest and of the idlest expert over their fair share;
    `router_entropy`, the entropy of the router's softmax over that of a uniform one; and with
    `capacity_factor` `dropped_share`, the share of choices that were dropped. `expert_tokens` holds
    the counts.

    Args:
        hidden_dim: width of inputs and outputs.
        num_experts: number of experts.
        top_k: number of experts that each token takes. A router passed as an instance has its own.
        intermediate_dim: width inside an expert; None for `hidden_dim`, as in the authors' code.
        router: "noisy_top_k", "top_k", "switch" (with `top_k=1`), "bias_balanced", "expert_choice"
            (not where `causal`), or a `Router`.
        activation: name of the experts' activation, or a function.
        balance_loss_weight: factor of the router's balancing loss.
        z_loss_weight: factor of the router z-loss.
        gated: whether an expert computes `(activation(x W_gate) * (x W_in)) W_out`; SwiGLU with
            `activation="silu"`.
        shared_expert_dim: width of one more expert that every token takes; None for none.
        capacity_factor: in training an expert takes at most `capacity_factor` times its fair share
            of the choices on its replica, and drops the rest; None for no limit. Not for routers
            whose experts choose tokens.
        causal: whether the layer must not look at later positions. `MultiModel` sets it in
            decoders.
        count_tokens: whether to count the experts' tokens, in two non-trainable weights, and to
            show the metrics above.
        kernel_initializer: initializer of each expert's kernels.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(batch, hidden_dim)`.
        mask: boolean, `inputs.shape[:-1]`, True at real tokens; None if all are.
        training: whether to train: noise, capacity, and the losses.

    Returns:
        A tensor of the shape of `inputs`.

    Raises:
        ValueError: a number is out of range, `top_k` is above `num_experts`, `router` is unknown or
            does not fit, or the rank or width of `inputs` or `mask` is wrong.

    Example:
        >>> layer = kmm.layers.MoELayer(64, num_experts=16, top_k=2)
        >>> layer(np.ones((2, 5, 64), "float32")).shape
        (2, 5, 64)

    Reference:
        Shazeer et al. 2017, arXiv 1701.06538; Kaiser et al. 2017, arXiv 1706.05137, section 2.3.
        Gated experts: Shazeer 2020, arXiv 2002.05202. Shared expert: Dai et al. 2024, arXiv
        2401.06066.
    """

    num_stacks = 1  # the experts
    scale_axes = (1,)

    def __init__(
        self,
        hidden_dim: int,
        num_experts: int,
        top_k: int = 4,
        intermediate_dim: int | None = None,
        router: str | Router = "noisy_top_k",
        activation: str | Callable = "relu",
        balance_loss_weight: float = 0.01,
        z_loss_weight: float = 0.0,
        gated: bool = False,
        shared_expert_dim: int | None = None,
        capacity_factor: float | None = None,
        causal: bool = False,
        count_tokens: bool = True,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = positive_int("hidden_dim", hidden_dim)
        self.num_experts = positive_int("num_experts", num_experts)
        self.intermediate_dim = optional_positive_int("intermediate_dim", intermediate_dim)
        self._router_name = router if isinstance(router, str) else None
        self.router = _make_router(router, self.num_experts, top_k)
        self.top_k = self.router.top_k
        self.activation = keras.activations.get(activation)
        self.balance_loss_weight = not_negative("balance_loss_weight", balance_loss_weight)
        self.z_loss_weight = not_negative("z_loss_weight", z_loss_weight)
        self.gated = gated
        self.shared_expert_dim = optional_positive_int("shared_expert_dim", shared_expert_dim)
        if capacity_factor is not None:
            positive("capacity_factor", capacity_factor)
        self.capacity_factor = capacity_factor
        self.causal = causal
        self.count_tokens = count_tokens
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self._check_router()

    @property
    def position_wise(self) -> bool:
        """Whether the output at a position depends on that position alone."""
        return self.router.position_wise

    @property
    def matrices(self) -> tuple[str, ...]:
        """The names of all kernels; see `OwnMatrices`."""
        shared = self._names("shared_") if self.shared_expert_dim else []
        return (*self._names("expert_"), *shared)

    @property
    def expert_kernels(self) -> list[keras.Variable]:
        """The kernels of the experts: in, gate if `gated`, out."""
        return [getattr(self, name) for name in self._names("expert_")]

    @property
    def shared_kernels(self) -> list[keras.Variable]:
        """The kernels of the shared expert; empty without one."""
        names = self._names("shared_") if self.shared_expert_dim else []
        return [getattr(self, name) for name in names]

    def build(self, input_shape: Shape):
        block_shape("inputs", input_shape, self.hidden_dim, ranks=(2, 3))
        # A router that the user passed may be built already.
        if not self.router.built:
            self.router.build(input_shape)
        width = self.intermediate_dim or self.hidden_dim
        self._add_kernels("expert_", self.num_experts, width)
        if self.shared_expert_dim:
            self._add_kernels("shared_", 1, self.shared_expert_dim)
        # Holds scale and offset, under the names where saved models have them: keep these names.
        self.norm = self.make(LayerNorm, input_shape, name="norm")
        if self.count_tokens:
            self.expert_tokens = self._add_counter("expert_tokens", self.num_experts)
            self.router_totals = self._add_counter("router_totals", 3)
            # Metrics are named after the layer's place in the model, as `encoder_experts`.
            prefix, drops = "_".join(self.path.split("/")[-2:]), self.capacity_factor is not None
            self.statistics = statistics.make_metrics(
                prefix, self.expert_tokens, self.router_totals, self.top_k, drops
            )

    def call(self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None):
        mask = None if mask is None else ops.cast(mask, "bool")
        self._check_inputs(inputs, mask)
        routing = self.router(inputs, mask=mask, training=training)
        weights = Router.token_weights(routing.logits, mask)
        if training:
            self._add_losses(routing, weights)
        # In inference nothing is dropped: an output must not depend on the rest of the batch.
        kept = self._limit_capacity(routing, weights) if training else routing
        if self.count_tokens:
            new = replica_sum(statistics.count_batch(self.router, routing, kept, weights))
            self.expert_tokens.assign(self.expert_tokens + new[: self.num_experts])
            self.router_totals.assign(self.router_totals + new[self.num_experts :])
        outputs = self._experts(ops.reshape(inputs, (-1, self.hidden_dim)), kept)
        outputs = ops.add(inputs, ops.reshape(outputs, ops.shape(inputs)))
        return layer_norm(outputs, self.norm.scale, self.norm.offset, self.norm.epsilon)

    def compute_output_shape(self, input_shape: Shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            **attributes(self, "hidden_dim", "num_experts", "top_k", "intermediate_dim"),
            **attributes(self, "balance_loss_weight", "z_loss_weight", "gated"),
            **attributes(self, "shared_expert_dim", "capacity_factor", "causal", "count_tokens"),
            "router": self._router_name or keras.saving.serialize_keras_object(self.router),
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    @classmethod
    def from_config(cls, config: dict):
        config = dict(config)
        if isinstance(config.get("router"), dict):
            config["router"] = keras.saving.deserialize_keras_object(config["router"])
        return cls(**config)

    def reset_statistics(self):
        """Sets the counters behind the metrics to zero."""
        if self.count_tokens:
            self.statistics[0].reset_state()  # all of them share the counters

    def _experts(self, tokens: Tensor, routing: Routing) -> Tensor:
        # Read once: under a mixed policy every reading of a variable casts it.
        kernels = self._values("expert_")
        compute = dispatch.sparse_feed_forward
        if self.router.experts_choose:
            compute = dispatch.expert_choice_feed_forward
        outputs = compute(tokens, routing.indices, routing.gates, kernels, self.activation)
        if self.shared_expert_dim:
            shared = [kernel[0] for kernel in self._values("shared_")]
            outputs = outputs + dispatch.expert_forward(tokens, shared, self.activation)
        return outputs

    def _limit_capacity(self, routing, weights):
        """Empties the places that are beyond the capacity of their expert."""
        if self.capacity_factor is None:
            return routing
        # Of this replica alone: to count over all would need the order of tokens among replicas.
        choices = ops.sum(weights) * self.top_k
        capacity = ops.ceil(choices * (self.capacity_factor / self.num_experts))
        kept = dispatch.within_capacity(routing.indices, self.num_experts, capacity)
        return routing._replace(
            indices=ops.where(kept, routing.indices, self.num_experts),
            gates=ops.where(kept, routing.gates, 0.0),
        )

    def _add_losses(self, routing, weights):
        # Keras adds losses of this dtype only, whatever the dtype policy.
        floatx = keras.config.floatx()
        self.add_loss(self.balance_loss_weight * ops.cast(routing.loss, floatx))
        if self.z_loss_weight:
            z_loss = router_z_loss(routing.logits, weights)
            self.add_loss(self.z_loss_weight * ops.cast(z_loss, floatx))

    def _add_kernels(self, prefix, count, width):
        for name in self._names(prefix):
            sizes = (width, self.hidden_dim) if name.endswith("out") else (self.hidden_dim, width)
            # Each is drawn as if it stood alone.
            initializer = scaled_initializer(self.kernel_initializer, count)
            setattr(self, name, self.add_weight((count, *sizes), initializer, name=name))

    def _names(self, prefix):
        # In the order in which dispatch expects them.
        kinds = ("in", "gate", "out") if self.gated else ("in", "out")
        return [f"{prefix}kernel_{kind}" for kind in kinds]

    def _values(self, prefix):
        return [ops.convert_to_tensor(self.value(name)) for name in self._names(prefix)]

    def _add_counter(self, name, size):
        # In float32 under every policy: bfloat16 counts to 256. Not trained, and read in full.
        options = {"dtype": "float32", "trainable": False, "autocast": False}
        # Every replica adds the sum over all of them.
        aggregation = "only_first_replica"
        return self.add_weight((size,), "zeros", name=name, aggregation=aggregation, **options)

    def _check_router(self):
        if self.capacity_factor is not None and self.router.experts_choose:
            raise ValueError(
                "`capacity_factor` must be None where experts choose tokens: they are balanced. "
                f"Received: router={self._router_name or self.router.name}, "
                f"capacity_factor={self.capacity_factor}"
            )
        if self.causal and not self.router.position_wise:
            raise ValueError(
                "`router` must choose for each token alone where `causal` is True: "
                f"{type(self.router).__name__} compares a token with others of its sequence. "
                f"Received: router={self._router_name or self.router.name}, causal=True"
            )

    def _check_inputs(self, inputs, mask):
        block_shape("inputs", inputs.shape, self.hidden_dim, ranks=(2, 3))
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if not keras.backend.is_float_dtype(dtype):
            raise ValueError(f"`inputs` must be of a floating dtype. Received: dtype={dtype}")
        if mask is None:
            return
        shape, expected = tuple(mask.shape), tuple(inputs.shape[:-1])
        if len(shape) != len(expected) or any(
            None not in sizes and sizes[0] != sizes[1] for sizes in zip(shape, expected)
        ):
            raise ValueError(
                "`mask` must have the shape of `inputs` without its last axis. Received: "
                f"mask.shape={shape}, inputs.shape={tuple(inputs.shape)}"
            )


def _make_router(router: str | Router, num_experts: int, top_k: int) -> Router:
    """Makes a layer's router by its name, or checks the one that it was given."""
    if isinstance(router, Router):
        if router.num_experts != num_experts:
            raise ValueError(
                "`router` must have as many experts as the layer. Received: "
                f"router.num_experts={router.num_experts}, num_experts={num_experts}"
            )
        return router
    if not isinstance(router, str) or router not in ROUTERS:
        names = ", ".join(f'"{name}"' for name in ROUTERS)
        raise ValueError(f"`router` must be {names} or a Router. Received: router={router}")
    if router != "switch":
        return ROUTERS[router](num_experts, top_k, name="router")
    if top_k != 1:
        raise ValueError(f'`top_k` must be 1 with router="switch". Received: top_k={top_k}')
    return SwitchRouter(num_experts, name="router")
