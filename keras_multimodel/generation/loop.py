"""The loop that writes one id after the other."""

import keras
import numpy as np
from keras import ops

from keras_multimodel.generation.constraints import Constraint
from keras_multimodel.layers.stepping import write_position
from keras_multimodel.typing import Nested, Tensor

PADDING, END = 0, 1


class SamplingLoop:
    """Writes ids that a sampler chooses.

    Axes: B batch, L the most ids that fit. The state of a loop is a dict: `index`, the number of
    ids written; `ids` `(B, L)`; `last` `(B,)`, the ids written last; `ended` `(B,)`; and the states
    of the model (`cache`), of the constraint and of the sampler.

    Args:
        steps: computes logits position by position: a `CachedSteps` or a `RecomputedSteps`.
        sampler: one of the classes of `samplers`.
        constraint: says which ids may come next; None for no restriction.
    """

    rows_per_input = 1

    def __init__(self, steps, sampler, constraint: Constraint | None = None):
        self.steps = steps
        self.sampler = sampler
        self.constraint = constraint

    def start(
        self, length: int, encoded: Tensor, mask: Tensor, ended: Tensor, constraint_state: Nested
    ) -> dict:
        """Returns the state before the first id.

        Args:
            length: L.
            encoded: encoded inputs `(B, source_length, hidden_dim)`.
            mask: boolean `(B, source_length)`.
            ended: boolean `(B,)`, True in rows that only fill the batch.
            constraint_state: the state of the constraint, `()` without one.
        """
        batch = ops.shape(encoded)[0]  # a tensor where an exported model takes any number of rows
        return {
            "index": ops.zeros((), "int32"),
            "ids": ops.zeros((batch, length), "int32"),
            "last": ops.zeros((batch,), "int32"),  # at position 0 the command stands instead
            "ended": ended,
            "cache": self.steps.initial_cache(length, encoded, mask),
            "constraint": constraint_state,
            "sampler": [],  # the caller adds the values of its variables, which are not known here
        }

    def advance(
        self, values: list, state: dict, draws: Tensor | tuple, until: Tensor, limit: Tensor
    ) -> dict:
        """Writes until there are `until` ids or all rows have ended, and returns the state.

        Args:
            values: pairs of a variable and its value, for `keras.StatelessScope`.
            state: the state.
            draws: float32 `(L, B)`, random numbers for each step; `()` if the sampler uses none.
            until: int32 scalar.
            limit: int32 scalar, how many ids may be written in all.
        """

        def body(state):
            variables = self.sampler.variables
            with keras.StatelessScope([*values, *zip(variables, state["sampler"])]):
                after = self._step(state, draws, limit)
                after["sampler"] = [ops.convert_to_tensor(v.value) for v in variables]
            return after

        def unfinished(state):
            return (state["index"] < until) & ops.logical_not(ops.all(self._finished(state)))

        state = keras.tree.map_structure(ops.convert_to_tensor, state)
        return ops.while_loop(unfinished, body, state)

    def scores(self, state: dict) -> np.ndarray:
        """Returns what orders the outputs of one input, `(B,)`: of one output, nothing."""
        return np.zeros(state["ended"].shape)

    def _finished(self, state):
        return state["ended"]

    def _step(self, state, draws, limit):
        index, ended = state["index"], state["ended"]
        logits, cache = self._logits(state)
        logits = self._allow(logits, state, limit)
        draw = ops.take(draws, index, axis=0) if self.sampler.random else None
        # Rows that have ended get padding until the last one ends.
        ids = ops.where(ended, PADDING, self.sampler.choose(logits, draw))
        return {
            "index": index + 1,
            "ids": write_position(state["ids"], ids, index),
            "last": ids,
            "ended": ended | (ids == END),
            "cache": cache,
            "constraint": self._advance_constraint(state["constraint"], ids),
        }

    def _logits(self, state):
        arguments = (state["ids"], state["last"], state["cache"], state["index"])
        logits, cache = self.steps.step(*arguments)
        return ops.cast(logits, "float32"), cache

    def _allow(self, scores, state, limit):
        """Returns scores of -inf for padding and for ids that the constraint does not allow."""
        allowed = ops.arange(scores.shape[-1])[None] > PADDING
        if self.constraint is not None:
            remaining = limit - state["index"]
            allowed = allowed & self.constraint.allowed(state["constraint"], remaining)
        return ops.where(allowed, scores, -float("inf"))

    def _advance_constraint(self, constraint_state, ids):
        if self.constraint is None:
            return constraint_state
        return self.constraint.advance(constraint_state, ids)
