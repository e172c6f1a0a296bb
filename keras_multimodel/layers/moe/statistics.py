"""Metrics of what the experts do, read from counters that a layer keeps."""

import math

import keras
from keras import ops


class ExpertStatistic(keras.metrics.Metric):
    """Shows a number computed from a layer's counters in the logs of `fit` and `evaluate`.

    The layer itself counts, in non-trainable weights, since on JAX a metric cannot be updated
    inside a layer: there the number is right in the logs of an epoch, and stands still in the
    progress bar.

    Args:
        name: name in the logs.
        counters: function without arguments that returns the layer's counters.
        compute: function without arguments that returns the number.
        reset: function without arguments that empties the counters.
    """

    def __init__(self, name: str, counters, compute, reset):
        super().__init__(name=name)
        self._counters = counters
        self._compute = compute
        self._reset = reset

    def update_state(self, *args, **kwargs):
        """Does nothing: the layer counts."""

    def result(self):
        if any(_is_away(counter) for counter in self._counters()):
            return ops.zeros(())
        return self._compute()

    def reset_state(self):
        self._reset()


def _is_away(variable):
    """Returns whether the compiled step of JAX has taken the variable's value with it."""
    return keras.backend.backend() == "jax" and variable._value is None


def busiest(expert_tokens):
    """Returns the tokens of the busiest expert over its fair share: 1 where uniform."""
    return ops.max(expert_tokens) / _fair_share(expert_tokens)


def idlest(expert_tokens):
    """Returns the tokens of the idlest expert over its fair share: 1 where uniform, 0 if dead."""
    return ops.min(expert_tokens) / _fair_share(expert_tokens)


def entropy(logits):
    """Returns `(T,)`, the entropy of the softmax of `logits` `(T, E)` over that of uniform."""
    log_probabilities = ops.log_softmax(logits, axis=-1)
    nats = -ops.sum(ops.exp(log_probabilities) * log_probabilities, axis=-1)
    return nats / max(math.log(logits.shape[-1]), 1e-9)


def _fair_share(expert_tokens):
    return ops.maximum(ops.mean(expert_tokens), 1e-9)
