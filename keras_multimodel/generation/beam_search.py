"""Beam search."""

import keras
import numpy as np
from keras import ops

from keras_multimodel.argument_checks import not_negative, positive_int
from keras_multimodel.generation.loop import END, PADDING, SamplingLoop
from keras_multimodel.layers.stepping import write_position
from keras_multimodel.typing import Nested, Tensor


class BeamSearch:
    """Keeps the best `num_beams` prefixes of an output at every step.

    A beam is scored by its log-probability over `((5 + length) / 6) ** length_penalty`, where the
    length counts the end. A beam that has ended is frozen: it keeps its place while its score is
    among the best. The search stops when all beams have ended.

    Args:
        num_beams: number of beams. With 1 the search is greedy.
        length_penalty: 0 for the plain log-probability; greater numbers favor longer outputs.

    Raises:
        ValueError: `num_beams` is not a positive integer, or `length_penalty` is negative.

    Example:

    ```python
    text = kmm.layers.TextModality(20, 16)
    task = kmm.Task("copy", text, text, max_target_length=4)
    model = kmm.MultiModel([task], 16, moe=None, num_encoder_blocks=1, num_decoder_blocks=1)
    outputs = model.generate("copy", [[3, 4, 1]], sampler=kmm.generation.BeamSearch(4))
    best, hypotheses = outputs[0], outputs.hypotheses[0]  # with their scores
    ```

    Reference:
        Wu et al. 2016, arXiv 1609.08144, section 7.
    """

    seed = None
    random = False
    variables: tuple = ()

    def __init__(self, num_beams: int = 4, length_penalty: float = 0.6):
        self.num_beams = positive_int("num_beams", num_beams)
        self.length_penalty = not_negative("length_penalty", length_penalty)

    @property
    def key(self) -> tuple:
        """What tells compiled loops apart."""
        return ("beam", self.num_beams, self.length_penalty)

    def penalty(self, length: Tensor) -> Tensor:
        """Returns what a log-probability is divided by, float32 of the shape of `length`."""
        return ((5.0 + ops.cast(length, "float32")) / 6.0) ** self.length_penalty


class BeamLoop(SamplingLoop):
    """Writes with beam search.

    The rows of the batch are the beams of each input, one input after the other: B inputs of K
    beams. The state also has `log_probability` and `length` of each beam, both `(B, K)`.
    """

    @property
    def rows_per_input(self) -> int:
        """K."""
        return self.sampler.num_beams

    def start(
        self, length: int, encoded: Tensor, mask: Tensor, ended: Tensor, constraint_state: Nested
    ) -> dict:
        beams = self.sampler.num_beams
        batch = ops.shape(encoded)[0]
        arguments = keras.tree.map_structure(
            lambda x: ops.repeat(x, beams, axis=0), (encoded, mask, ended, constraint_state)
        )
        state = super().start(length, *arguments)
        # All beams are still the same prefix: only the first counts, or all would write the same.
        first = ops.where(ops.arange(beams) == 0, 0.0, -float("inf"))
        state["log_probability"] = ops.broadcast_to(ops.cast(first, "float32"), (batch, beams))
        state["length"] = ops.zeros((batch, beams), "int32")
        return state

    def scores(self, state: dict) -> np.ndarray:
        penalty = self.sampler.penalty(state["length"])
        return ops.convert_to_numpy(state["log_probability"] / penalty).reshape(-1)

    def _finished(self, state):
        # Where the constraint allows fewer ids than there are beams, some are no prefix at all.
        impossible = ops.isinf(state["log_probability"])
        return state["ended"] | ops.reshape(impossible, (-1,))

    def _step(self, state, draws, limit):
        index, ended, beams = state["index"], state["ended"], self.sampler.num_beams
        logits, cache = self._logits(state)
        size = logits.shape[-1]
        gain = self._allow(ops.log_softmax(logits), state, limit)
        # An ended beam extends itself with padding only, which costs nothing.
        frozen = ops.where(ops.arange(size) == PADDING, 0.0, -float("inf"))
        gain = ops.where(ended[:, None], frozen, gain)
        total = state["log_probability"][..., None] + ops.reshape(gain, (-1, beams, size))
        length = ops.where(ops.reshape(ended, (-1, beams)), state["length"], index + 1)
        scores = total / self.sampler.penalty(length)[..., None]
        # The best of all beams of an input together: a beam may have several heirs, or none.
        flat = (ops.shape(total)[0], beams * size)
        _, places = ops.top_k(ops.reshape(scores, flat), beams)
        places = ops.cast(places, "int32")
        parents, ids = places // size, ops.reshape(places % size, (-1,))
        rows = ops.arange(flat[0], dtype="int32")[:, None] * beams + parents
        rows = ops.reshape(rows, (-1,))
        written, ended, constraint = keras.tree.map_structure(
            lambda x: ops.take(x, rows, axis=0), (state["ids"], ended, state["constraint"])
        )
        return {
            "index": index + 1,
            "ids": write_position(written, ids, index),
            "last": ids,
            "ended": ended | (ids == END),
            "cache": self.steps.reorder_cache(cache, rows),
            "constraint": self._advance_constraint(constraint, ids),
            "log_probability": ops.take_along_axis(ops.reshape(total, flat), places, axis=1),
            "length": ops.take_along_axis(length, parents, axis=1),
        }
