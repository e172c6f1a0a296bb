"""Beam search."""

import keras
from keras import ops

from keras_multimodel.generation.loop import END, PADDING, Search
from keras_multimodel.ops import cache as caches


class BeamSearch:
    """Keeps the best `num_beams` beginnings of an output at every step.

    A beam is scored by its log-probability over `((5 + length) / 6) ** length_penalty`, where the
    length counts the end. A beam that has ended is frozen: it keeps its place while its score is
    among the best. The search stops when all beams have ended.

    Args:
        num_beams: number of beams. With 1 the search is greedy.
        length_penalty: 0 for the plain log-probability; greater numbers favour longer outputs.

    Raises:
        ValueError: `num_beams` is not a positive integer, or `length_penalty` is negative.

    Example:

    ```python
    outputs = model.generate("en_de", inputs, sampler=kmm.generation.BeamSearch(4))
    outputs[0], outputs.hypotheses[0]  # the best output, and all four with their scores
    ```

    Reference:
        Wu et al. 2016, arXiv 1609.08144, section 7.
    """

    seed = None
    random = False
    variables: tuple = ()

    def __init__(self, num_beams: int = 4, length_penalty: float = 0.6):
        if not isinstance(num_beams, int) or isinstance(num_beams, bool) or num_beams < 1:
            raise ValueError(
                f"`num_beams` must be a positive integer. Received: num_beams={num_beams}"
            )
        if not length_penalty >= 0:
            raise ValueError(
                f"`length_penalty` must not be negative. Received: length_penalty={length_penalty}"
            )
        self.num_beams = num_beams
        self.length_penalty = length_penalty

    @property
    def key(self) -> tuple:
        """What tells compiled searches apart."""
        return ("beam", self.num_beams, self.length_penalty)

    def penalty(self, length):
        """Returns what a log-probability is divided by, float32 as `length`."""
        return ((5.0 + ops.cast(length, "float32")) / 6.0) ** self.length_penalty


class BeamedSearch(Search):
    """Writes with beam search.

    The rows are the beams of each input, one input after the other; there are B inputs of K beams.
    The state also has `log_probability` and `length` of each beam, both `(B, K)`.
    """

    exchanges_rows = True

    @property
    def rows_per_input(self) -> int:
        """K."""
        return self.chooser.num_beams

    def start(self, length, encoded, mask, ended, constraint_state):
        beams = self.chooser.num_beams
        batch = encoded.shape[0]
        repeated = (ops.repeat(x, beams, axis=0) for x in (encoded, mask, ended))
        constraint_state = keras.tree.map_structure(
            lambda x: ops.repeat(x, beams, axis=0), constraint_state
        )
        state = super().start(length, *repeated, constraint_state)
        # All beams are still the same one: only the first counts.
        first = ops.arange(beams) == 0
        start = ops.where(first, 0.0, -float("inf"))
        state["log_probability"] = ops.broadcast_to(ops.cast(start, "float32"), (batch, beams))
        state["length"] = ops.zeros((batch, beams), "int32")
        return state

    def _finished(self, state):
        impossible = ops.isinf(state["log_probability"])
        return state["ended"] | ops.reshape(impossible, (-1,))

    def _step(self, state, draws, limit):
        index, ended, beams = state["index"], state["ended"], self.chooser.num_beams
        logits, cache = self._logits(state)
        size = logits.shape[-1]
        gain = self._allow(ops.log_softmax(logits), state, limit)
        frozen = ops.where(ops.arange(size) == PADDING, 0.0, -float("inf"))
        gain = ops.where(ended[:, None], frozen, gain)
        total = state["log_probability"][..., None] + ops.reshape(gain, (-1, beams, size))
        length = ops.where(ops.reshape(ended, (-1, beams)), state["length"], index + 1)
        scores = total / self.chooser.penalty(length)[..., None]
        flat = (total.shape[0], beams * size)
        _, places = ops.top_k(ops.reshape(scores, flat), beams)
        places = ops.cast(places, "int32")
        parents, ids = places // size, ops.reshape(places % size, (-1,))
        rows = ops.arange(flat[0], dtype="int32")[:, None] * beams + parents
        rows = ops.reshape(rows, (-1,))
        written = ops.take(state["ids"], rows, axis=1)
        constraint = keras.tree.map_structure(
            lambda x: ops.take(x, rows, axis=0), state["constraint"]
        )
        return {
            "index": index + 1,
            "ids": caches.write(written, ids, index),
            "last": ids,
            "ended": ops.take(ended, rows, axis=0) | (ids == END),
            "cache": self.steps.reorder_cache(cache, rows),
            "constraint": self._advance(constraint, ids),
            "log_probability": ops.take_along_axis(ops.reshape(total, flat), places, axis=1),
            "length": ops.take_along_axis(length, parents, axis=1),
        }
