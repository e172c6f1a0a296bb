"""What the experts do: counts of a batch, and the metrics that `fit` shows of them.

`MoELayer` owns two counters, so that they are saved with its weights: `tokens` `(E,)`, the real
tokens that each expert received, and `totals` `(3,)`, the sums over batches of real tokens, of
their router's entropy, and of dropped choices.
"""

import math
from collections.abc import Callable

import keras
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.layers.moe.routers.router import Router, Routing
from keras_multimodel.typing import Tensor


def count_batch(router: Router, chosen: Routing, kept: Routing, weights: Tensor) -> Tensor:
    """Counts what the experts do in a batch.

    Args:
        router: the layer's router.
        chosen: what the router chose.
        kept: what is left of that where experts have a capacity.
        weights: `(T,)`, 1 at real tokens.

    Returns:
        float32 `(E + 3,)`: the increments of `tokens` and, behind them, of `totals`.
    """
    if router.experts_choose:
        counts = ops.sum(ops.cast(kept.gates > 0, weights.dtype), axis=1)
        dropped = ops.zeros((), weights.dtype)
    else:
        counts = router.sum_by_expert(ops.ones_like(kept.gates), kept.indices)
        dropped = ops.sum(ops.cast(chosen.indices != kept.indices, weights.dtype))
    sums = ops.sum(weights), ops.sum(entropy(ops.stop_gradient(chosen.logits)) * weights), dropped
    return ops.cast(ops.concatenate([counts, ops.stack(sums)]), "float32")


def make_metrics(
    prefix: str, tokens: keras.Variable, totals: keras.Variable, top_k: int, drops: bool
) -> list[keras.metrics.Metric]:
    """Makes the metrics of a layer.

    Args:
        prefix: start of their names in the logs.
        tokens: counter `(E,)`.
        totals: counter `(3,)`.
        top_k: experts of a token.
        drops: whether experts have a capacity, and drop what exceeds it.

    Returns:
        The metrics.
    """
    computed = {
        "max_load": lambda: busiest(tokens),
        "min_load": lambda: idlest(tokens),
        "router_entropy": lambda: totals[1] / ops.maximum(totals[0], 1.0),
    }
    if drops:
        computed["dropped_share"] = lambda: totals[2] / ops.maximum(totals[0] * top_k, 1.0)
    counters = tokens, totals
    return [ExpertStatistic(f"{prefix}_{name}", counters, f) for name, f in computed.items()]


class ExpertStatistic(keras.metrics.Metric):
    """Shows a number computed from a layer's counters in the logs of `fit` and `evaluate`.

    The layer itself counts, in non-trainable weights, since on JAX a metric cannot be updated
    inside a layer: there the number is right in the logs of an epoch, and does not change in the
    progress bar.

    Args:
        name: name in the logs.
        counters: the layer's counters.
        compute: function without arguments that returns the number.
    """

    def __init__(
        self, name: str, counters: tuple[keras.Variable, ...], compute: Callable[[], Tensor]
    ):
        super().__init__(name=name)
        # In a closure, since a metric tracks the variables among its attributes as its own.
        self._counters = lambda: counters
        self._compute = compute

    def update_state(self, *args, **kwargs):
        """Does nothing: the layer counts."""

    # Zero while a step is compiled: the value is read again, and right, when the epoch has ended.
    def result(self):
        if not all(_keras_compat.has_value(counter) for counter in self._counters()):
            return ops.zeros(())
        return self._compute()

    def reset_state(self):
        for counter in self._counters():
            counter.assign(ops.zeros(counter.shape, counter.dtype))


def busiest(expert_tokens: Tensor) -> Tensor:
    """Returns the tokens of the busiest expert over its fair share: 1 where uniform."""
    return ops.max(expert_tokens) / _fair_share(expert_tokens)


def idlest(expert_tokens: Tensor) -> Tensor:
    """Returns the tokens of the idlest expert over its fair share: 1 where uniform, 0 if dead."""
    return ops.min(expert_tokens) / _fair_share(expert_tokens)


def entropy(logits: Tensor) -> Tensor:
    """Returns `(T,)`, the entropy of the softmax of `logits` `(T, E)` over that of uniform."""
    log_probabilities = ops.log_softmax(logits, axis=-1)
    nats = -ops.sum(ops.exp(log_probabilities) * log_probabilities, axis=-1)
    # Of a single expert both are 0.
    return nats / max(math.log(logits.shape[-1]), 1e-9)


def _fair_share(expert_tokens):
    return ops.maximum(ops.mean(expert_tokens), 1e-9)
