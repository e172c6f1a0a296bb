"""The base of all routers.

Axis legend: T tokens (batch x length), D hidden, E experts, K chosen, C tokens of an expert.
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_multimodel.ops.top_k import stable_top_k


class Routing(NamedTuple):
    """Which expert sees which token.

    Attributes:
        indices: int32 `(T, K)`, the experts of each token, E where a place is empty; or, from a
            router whose experts choose, `(E, C)`, the tokens of each expert.
        gates: in the router's dtype, the weight of each choice, shaped as `indices`; 0 where a
            place is empty.
        logits: `(T, E)`, the router's scores without noise, in its dtype.
        loss: the router's balancing loss, a scalar.
    """

    indices: object
    gates: object
    logits: object
    loss: object


def check_positive_int(name: str, value, optional: bool = False) -> None:
    """Raises a ValueError unless `value` is an integer above 0, or None where `optional`."""
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}")


def check_not_negative(name: str, value) -> None:
    """Raises a ValueError unless `value` is a number of at least 0."""
    if not value >= 0:
        raise ValueError(f"`{name}` must not be negative. Received: {name}={value}")


def softmax(scores):
    """Returns the softmax of the last axis; of a single score, for which Keras warns, 1."""
    return ops.softmax(scores, axis=-1) if scores.shape[-1] > 1 else ops.exp(scores - scores)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Router(keras.layers.Layer):
    """Chooses experts for tokens: the base of all routers.

    It computes in float32 under every dtype policy but float64. A subclass implements `route`.

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
    """

    causal = True
    """Whether a token's experts depend on no later token."""

    experts_choose = False
    """Whether `Routing.indices` holds the tokens of each expert."""

    def __init__(
        self,
        num_experts: int,
        top_k: int = 4,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        if keras.config.dtype_policy().compute_dtype != "float64":
            kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        check_positive_int("num_experts", num_experts)
        check_positive_int("top_k", top_k)
        if top_k > num_experts:
            raise ValueError(
                "`top_k` must be at most `num_experts`. "
                f"Received: top_k={top_k}, num_experts={num_experts}"
            )
        self.num_experts = num_experts
        self.top_k = top_k
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.gate_kernel = self.add_weight(
            name="gate_kernel",
            shape=(input_shape[-1], self.num_experts),
            initializer=self.kernel_initializer,
        )

    def call(self, inputs, mask=None, training=None):
        tokens = ops.reshape(inputs, (-1, inputs.shape[-1]))
        return self.route(tokens, self.token_weights(tokens, mask), training)

    def route(self, tokens, mask, training):
        """Routes `tokens` `(T, D)`, where `mask` `(T,)` is 1.0 at real tokens, 0.0 at padding."""
        raise ValueError(f"`{type(self).__name__}` must implement `route`.")

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "top_k": self.top_k,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    @staticmethod
    def token_weights(tokens, mask):
        """Returns `mask` `(T,)` in the dtype of `tokens`, ones if there is none."""
        if mask is None:
            return ops.ones_like(tokens[:, 0])
        return ops.cast(ops.reshape(mask, (-1,)), tokens.dtype)

    def choose(self, scores, count=None):
        """Returns the `count` (default `top_k`) largest `scores` `(T, E)`, and their experts."""
        return stable_top_k(scores, count or self.top_k)

    def without_padding(self, experts, mask):
        """Returns `experts` `(T, K)` with the places of padding emptied."""
        return ops.where(mask[:, None] > 0, ops.cast(experts, "int32"), self.num_experts)

    def sum_by_expert(self, values, experts):
        """Returns `(E,)`, the sums of `values` `(T, K)` by expert."""
        flat = ops.reshape(values, (-1,)), ops.reshape(experts, (-1,))
        return ops.segment_sum(*flat, num_segments=self.num_experts + 1)[: self.num_experts]
