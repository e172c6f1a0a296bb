"""The base of all routers. Axis legend: T tokens (batch x length), D hidden, E experts, K chosen."""

from typing import NamedTuple

import keras
from keras import ops

from keras_multimodel.ops.top_k import stable_top_k


class Routing(NamedTuple):
    """Which expert sees which token.

    Attributes:
        indices: int32 `(T, K)`, the experts of each token, E where the place is empty; or, from a router whose experts choose, `(E,
            C)`, the tokens of each expert.
        gates: float32, the weight of each choice, of the shape of `indices`, 0 where the place is empty.
        logits: float32 `(T, E)`, the router's scores without noise.
        loss: the router's balancing loss, a float32 scalar.
    """

    indices: object
    gates: object
    logits: object
    loss: object


def check_positive_int(name: str, value) -> None:
    """Raises a ValueError unless `value` is an integer above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}")


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Router(keras.layers.Layer):
    """Chooses experts for tokens: the base of all routers, which run in float32 under every dtype policy.

    A subclass implements `route`. The gate's weights start at zero, as in the authors' code: training begins with every expert
    as good as any other.

    Args:
        num_experts: number of experts, E.
        top_k: number of experts that each token takes, K.
        **kwargs: name and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(tokens, hidden_dim)`.
        mask: boolean, `inputs.shape[:-1]`, True at real tokens; None if all are. Padding takes no expert.
        training: whether to train.

    Returns:
        A `Routing`.

    Raises:
        ValueError: an argument is not a positive integer, or `top_k` is larger than `num_experts`.
    """

    causal = True
    """Whether a token's experts depend on no later token."""

    experts_choose = False
    """Whether `Routing.indices` holds the tokens of each expert."""

    def __init__(self, num_experts: int, top_k: int = 4, **kwargs):
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
        self.supports_masking = True

    def build(self, input_shape):
        self.gate_kernel = self.add_weight(
            name="gate_kernel", shape=(input_shape[-1], self.num_experts), initializer="zeros"
        )

    def call(self, inputs, mask=None, training=None):
        tokens = ops.reshape(inputs, (-1, inputs.shape[-1]))
        return self.route(tokens, self.token_weights(tokens, mask), training)

    def route(self, tokens, mask, training):
        """Routes `tokens` `(T, D)`, where `mask` `(T,)` is 1.0 at real tokens and 0.0 at padding."""
        raise ValueError(f"`{type(self).__name__}` must implement `route`.")

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_spec(self, inputs, mask=None, training=None, **kwargs):
        num_tokens = None if None in inputs.shape[:-1] else 1
        for size in inputs.shape[:-1] if num_tokens else ():
            num_tokens *= size
        return Routing(
            keras.KerasTensor((num_tokens, self.top_k), dtype="int32"),
            keras.KerasTensor((num_tokens, self.top_k), dtype="float32"),
            keras.KerasTensor((num_tokens, self.num_experts), dtype="float32"),
            keras.KerasTensor((), dtype="float32"),
        )

    def get_config(self):
        return {**super().get_config(), "num_experts": self.num_experts, "top_k": self.top_k}

    @staticmethod
    def token_weights(tokens, mask):
        """Returns `mask` as float32 `(T,)`, ones if there is none."""
        if mask is None:
            return ops.ones_like(tokens[:, 0], dtype="float32")
        return ops.cast(ops.reshape(mask, (-1,)), "float32")

    def choose(self, scores, count=None):
        """Returns the `count` (default `top_k`) largest `scores` `(T, E)` and their experts."""
        return stable_top_k(scores, count or self.top_k)

    def without_padding(self, experts, mask):
        """Returns `experts` `(T, K)` with the places of padding emptied."""
        return ops.where(mask[:, None] > 0, ops.cast(experts, "int32"), self.num_experts)

    def sum_by_expert(self, values, experts):
        """Returns `(E,)`, the sums of `values` `(T, K)` by expert."""
        flat = ops.reshape(values, (-1,)), ops.reshape(experts, (-1,))
        return ops.segment_sum(*flat, num_segments=self.num_experts + 1)[: self.num_experts]
