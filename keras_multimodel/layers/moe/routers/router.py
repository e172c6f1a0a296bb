"""The base of all routers: what one must compute, and what they share.

Axis legend: T tokens (batch x length), D hidden, E experts, K chosen, C tokens of an expert.
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.moe.balance_losses import switch_balance_loss
from keras_multimodel.layers.sublayers import attributes
from keras_multimodel.ops.numerics import stable_top_k
from keras_multimodel.typing import Shape, Tensor


class Routing(NamedTuple):
    """Which expert sees which token.

    Attributes:
        indices: int32 `(T, K)`, the experts of each token, E where a place is empty; or, from a
            router whose experts choose, `(E, C)`, the tokens of each expert.
        gates: in the router's dtype, the weight of each choice, in the shape of `indices`; 0 where
            a place is empty.
        logits: `(T, E)`, the router's scores without noise, in its dtype.
        loss: the router's balancing loss, a scalar.
    """

    indices: Tensor
    gates: Tensor
    logits: Tensor
    loss: Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Router(keras.layers.Layer):
    """Chooses experts for tokens: subclass it for a router of your own.

    A subclass implements `route`, which receives the tokens as a matrix and returns a `Routing`.
    Pass an instance as `router` of `MoELayer`. Routers compute in float32 under every dtype policy
    but float64, since rounded scores would change which experts are chosen.

    Args:
        num_experts: number of experts, E.
        top_k: number of experts that each token takes, K.
        kernel_initializer: initializer of the gate's weights.
        **kwargs: name and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(tokens, hidden_dim)`.
        mask: boolean, `inputs.shape[:-1]`, True at real tokens; None if all are. Padding takes no
            expert and no part in the loss.
        training: whether to train.

    Returns:
        A `Routing`.

    Raises:
        ValueError: a number is not a positive integer, or `top_k` is above `num_experts`.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="my_package")
    class SigmoidRouter(kmm.layers.Router):
        def route(self, tokens, mask, training):
            logits = ops.matmul(tokens, self.gate_kernel)
            scores = ops.sigmoid(logits) + 1e-9  # never 0: they are divided by their sums
            probabilities = scores / ops.sum(scores, axis=-1, keepdims=True)
            gates, experts = self.choose(scores)
            gates = gates / ops.sum(gates, axis=-1, keepdims=True)
            chosen = self.without_padding(experts, mask)
            loss = self.switch_loss(probabilities, chosen, mask)
            return kmm.layers.Routing(chosen, gates * mask[:, None], logits, loss)

    layer = kmm.layers.MoELayer(16, num_experts=8, router=SigmoidRouter(8, top_k=2))
    assert layer(np.ones((2, 5, 16), "float32")).shape == (2, 5, 16)
    ```
    """

    position_wise = True
    """Whether a token's experts depend on that token alone: on no other one, earlier or later."""

    experts_choose = False
    """Whether `Routing.indices` holds the tokens of each expert."""

    def __init__(
        self,
        num_experts: int,
        top_k: int = 4,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ):
        # `setdefault`: a config that is loaded names its dtype.
        if keras.config.dtype_policy().compute_dtype != "float64":
            kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.num_experts = positive_int("num_experts", num_experts)
        self.top_k = positive_int("top_k", top_k)
        if self.top_k > self.num_experts:
            raise ValueError(
                "`top_k` must be at most `num_experts`. "
                f"Received: top_k={top_k}, num_experts={num_experts}"
            )
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Shape):
        shape = (input_shape[-1], self.num_experts)
        self.gate_kernel = self.add_weight(shape, self.kernel_initializer, name="gate_kernel")

    def call(self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None):
        tokens = ops.reshape(inputs, (-1, inputs.shape[-1]))
        return self.route(tokens, self.token_weights(tokens, mask), training)

    def route(self, tokens: Tensor, mask: Tensor, training: bool | None) -> Routing:
        """Chooses experts; a subclass implements it.

        Args:
            tokens: `(T, D)`.
            mask: `(T,)` in the dtype of `tokens`, 1.0 at real tokens, 0.0 at padding.
            training: whether to train.

        Returns:
            The choices.

        Raises:
            ValueError: the subclass has no `route`.
        """
        raise ValueError(f"`{type(self).__name__}` must implement `route`.")

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None):
        return None  # a `Routing` has no positions

    def get_config(self):
        return {
            **super().get_config(),
            **attributes(self, "num_experts", "top_k"),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    @staticmethod
    def token_weights(tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Returns `mask` as a vector `(T,)` in the dtype of `tokens`, ones if there is none."""
        if mask is None:
            return ops.ones_like(tokens[:, 0])
        return ops.cast(ops.reshape(mask, (-1,)), tokens.dtype)

    def choose(self, scores: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns the `count` (default `top_k`) largest `scores` `(T, E)`, and their experts."""
        return stable_top_k(scores, count or self.top_k)

    def without_padding(self, experts: Tensor, mask: Tensor) -> Tensor:
        """Returns `experts` `(T, K)` with the places of padding emptied, that is, set to E."""
        return ops.where(mask[:, None] > 0, ops.cast(experts, "int32"), self.num_experts)

    def sum_by_expert(self, values: Tensor, experts: Tensor) -> Tensor:
        """Returns `(E,)`, the sums of `values` `(T, K)` by expert."""
        flat = ops.reshape(values, (-1,)), ops.reshape(experts, (-1,))
        # Empty places, which hold E, are summed in a segment of their own, and cut off.
        return ops.segment_sum(*flat, num_segments=self.num_experts + 1)[: self.num_experts]

    def switch_loss(self, probabilities: Tensor, chosen: Tensor, mask: Tensor) -> Tensor:
        """Returns the loss of Switch for `probabilities` `(T, E)` and choices `(T, K)`."""
        counts = self.sum_by_expert(ops.ones_like(chosen, dtype=probabilities.dtype), chosen)
        return switch_balance_loss(probabilities, counts, mask)


def softmax(scores: Tensor) -> Tensor:
    """Returns the softmax of the last axis; of a single score, for which Keras warns, 1."""
    return ops.softmax(scores, axis=-1) if scores.shape[-1] > 1 else ops.exp(scores - scores)
