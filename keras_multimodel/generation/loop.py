"""The loop that writes one id after the other."""

import keras
from keras import ops

from keras_multimodel.ops import cache as caches
from keras_multimodel.ops.compiled import while_loop

PADDING, END = 0, 1


class Search:
    """Writes with a sampler.

    Axes: B batch, L the most ids that fit. The state of a search is a dict: `index`, the number of
    ids written; `ids` `(L, B)`; `last` `(B,)`, those just written; `ended` `(B,)`; and the states
    of the model (`cache`), the constraint and the sampler.

    Args:
        steps: gives logits, position by position; see `models.stepping.CachedSteps`.
        chooser: one of the classes of `samplers`.
        constraint: a `Constraint`, or None.
    """

    rows_per_input = 1
    exchanges_rows = False  # whether a step may take the cache of one row over to another

    def __init__(self, steps, chooser, constraint=None):
        self.steps = steps
        self.chooser = chooser
        self.constraint = constraint

    def start(self, length: int, encoded, mask, ended, constraint_state):
        """Returns the state before the first id.

        Args:
            length: L.
            encoded: the encoded inputs `(B, source_length, hidden_dim)`.
            mask: boolean `(B, source_length)`.
            ended: boolean `(B,)`, True in rows that only fill the batch.
            constraint_state: the constraint's, `()` without one.
        """
        batch = encoded.shape[0]
        return {
            "index": ops.zeros((), "int32"),
            "ids": ops.zeros((length, batch), "int32"),
            "last": ops.zeros((batch,), "int32"),
            "ended": ended,
            "cache": self.steps.initial_cache(length, encoded, mask),
            "constraint": constraint_state,
            "sampler": [],  # the values of its variables are not known here
        }

    def advance(self, values, state, draws, until, limit):
        """Runs until `until` ids are written or all rows have ended.

        Args:
            values: pairs of a variable and its value, for `keras.StatelessScope`.
            state: the state.
            draws: float32 `(L, B)`, the random numbers of each step; `()` if it needs none.
            until: int32 scalar.
            limit: int32 scalar, how many ids may be written in all.

        Returns:
            The state, the cache without what no step changes; see `whole`.
        """
        moving, fixed = self._split(state["cache"])

        def body(state):
            scope = keras.StatelessScope([*values, *zip(self.chooser.variables, state["sampler"])])
            with scope:
                state = {**state, "cache": self._join(state["cache"], fixed)}
                after = self._step(state, draws, limit)
                after["cache"], _ = self._split(after["cache"])
                after["sampler"] = [ops.convert_to_tensor(v.value) for v in self.chooser.variables]
            return after

        def go_on(state):
            return (state["index"] < until) & ops.logical_not(ops.all(self._finished(state)))

        return while_loop(go_on, body, {**state, "cache": moving})

    def whole(self, before, after):
        """Returns the state after `advance` with what it left out."""
        _, fixed = self._split(before["cache"])
        return {**after, "cache": self._join(after["cache"], fixed)}

    def _split(self, cache):
        return (cache, None) if self.exchanges_rows else caches.split(cache)

    def _join(self, cache, fixed):
        return cache if self.exchanges_rows else caches.join(cache, fixed)

    def _finished(self, state):
        return state["ended"]

    def _step(self, state, draws, limit):
        index, ended = state["index"], state["ended"]
        logits, cache = self._logits(state)
        logits = self._allow(logits, state, limit)
        draw = caches.read(draws, index) if self.chooser.random else None
        ids = ops.where(ended, PADDING, self.chooser.choose(logits, draw))
        return {
            "index": index + 1,
            "ids": caches.write(state["ids"], ids, index),
            "last": ids,
            "ended": ended | (ids == END),
            "cache": cache,
            "constraint": self._advance(state["constraint"], ids),
        }

    def _logits(self, state):
        arguments = (state["ids"], state["last"], state["cache"], state["index"])
        logits, cache = self.steps.step(*arguments)
        return ops.cast(logits, "float32"), cache

    def _allow(self, scores, state, limit):
        """Returns scores of -inf for padding and what the constraint does not allow."""
        allowed = ops.arange(scores.shape[-1])[None] > PADDING
        if self.constraint is not None:
            by_constraint = self.constraint.allowed(state["constraint"], limit - state["index"])
            allowed = allowed & by_constraint
        if allowed.shape[0] == 1:  # a row added costs less than a choice for every score
            return scores + ops.where(allowed, 0.0, -float("inf"))
        return ops.where(allowed, scores, -float("inf"))

    def _advance(self, constraint_state, ids):
        if self.constraint is None:
            return constraint_state
        return self.constraint.advance(constraint_state, ids)
