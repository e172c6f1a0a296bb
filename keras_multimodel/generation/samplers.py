"""How the next id is chosen: the samplers of keras-nlp, with separate random numbers for each row.

A sampler of keras-nlp draws for all rows of a batch from one stream, so that the output of a row
depends on the rows around it. Here, random numbers are drawn outside of the loop, one per row and
step, and the sampler only says which probabilities are left for the number to fall on.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_multimodel.generation.beam_search import BeamSearch
from keras_multimodel.typing import Tensor

NAMES = ("greedy", "beam", "random", "top_k", "top_p")


class Greedy:
    """Takes the most probable id."""

    key: tuple = ("greedy",)
    seed = None
    random = False
    variables: tuple = ()

    def choose(self, logits: Tensor, draws: Tensor | None) -> Tensor:
        """Returns ids, int32 `(batch,)`.

        Args:
            logits: float32 `(batch, vocabulary_size)`, -inf where an id is not allowed.
            draws: float32 `(batch,)` in [0, 1); None if `random` is False.
        """
        return ops.cast(ops.argmax(logits, axis=-1), "int32")  # the first among equals


class RandomChoice:
    """Draws from the probabilities that a sampler of keras-nlp leaves.

    Args:
        sampler: a `RandomSampler`, `TopKSampler` or `TopPSampler`.
        restrict: maps probabilities `(batch, vocabulary_size)` to those left, `(batch, n)`, and
            their ids; the ids are None if all are left.
        settings: what tells samplers of one class apart, beside the temperature.
    """

    random = True
    variables: tuple = ()

    def __init__(self, sampler: Any, restrict: Callable, *settings: Any):
        self.sampler = sampler
        self.restrict = restrict
        self.seed = sampler.seed
        self.key = (type(sampler).__name__, sampler.temperature, *settings)

    def choose(self, logits: Tensor, draws: Tensor) -> Tensor:
        """See `Greedy.choose`."""
        probabilities, ids = self.restrict(self.sampler.compute_probabilities(logits))
        total = ops.cumsum(probabilities, axis=-1)
        passed = total <= draws[:, None] * total[:, -1:]
        place = ops.sum(ops.cast(passed, "int32"), axis=-1, keepdims=True)
        place = ops.minimum(place, total.shape[-1] - 1)  # rounding can pass the last one
        chosen = place if ids is None else ops.take_along_axis(ids, place, axis=-1)
        return ops.cast(chosen[:, 0], "int32")


class CustomSampler:
    """Calls a user's own subclass of the `Sampler` of keras-nlp.

    Args:
        sampler: the sampler. Its variables, such as the state of a seed generator, become part of
            the state of the loop.
    """

    seed = None
    random = False

    def __init__(self, sampler: Any):
        self.sampler = sampler
        self.key = (type(sampler).__name__, id(sampler))
        self.variables = tuple(sampler.variables)

    def choose(self, logits: Tensor, draws: None) -> Tensor:
        """See `Greedy.choose`."""
        probabilities = self.sampler.compute_probabilities(logits)
        # A constraint may allow no id in a row that has ended, which gives 0 / 0.
        probabilities = ops.where(ops.isnan(probabilities), 1.0, probabilities)
        return ops.cast(self.sampler.get_next_token(probabilities), "int32")


def resolve(sampler: Any) -> Greedy | RandomChoice | CustomSampler | BeamSearch:
    """Returns the object that chooses ids for a `sampler` argument.

    Args:
        sampler: one of `NAMES`, a sampler of keras-nlp or a `BeamSearch`.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(sampler, BeamSearch):
        return sampler
    known = isinstance(sampler, str) and sampler in NAMES
    if known and sampler in ("greedy", "beam"):
        return Greedy() if sampler == "greedy" else BeamSearch()
    from keras_nlp import samplers  # takes seconds to import, and most calls do not need it

    chosen = samplers.get(sampler) if known else sampler
    # Both call the model themselves. The second came with a later release.
    unfit = (samplers.ContrastiveSampler, getattr(samplers, "SpeculativeSampler", ()))
    if not isinstance(chosen, samplers.Sampler) or isinstance(chosen, unfit):
        raise ValueError(
            f"`sampler` must be one of {', '.join(NAMES)}, a sampler of keras-nlp that needs "
            f"no more than probabilities, or a BeamSearch. Received: sampler={sampler!r}"
        )
    return _adapted(chosen, samplers)


def _adapted(sampler, samplers):
    """Returns the object of this module that stands for a sampler of keras-nlp."""
    kind = type(sampler)  # not `isinstance`: a subclass chooses in its own way
    if kind is samplers.GreedySampler:
        return Greedy()
    if kind is samplers.BeamSampler:
        return BeamSearch(sampler.num_beams, length_penalty=0.0)
    if kind is samplers.RandomSampler:
        return RandomChoice(sampler, lambda p: (p, None))
    if kind is samplers.TopKSampler:
        k = sampler.k
        return RandomChoice(sampler, lambda p: ops.top_k(p, min(k, p.shape[-1])), k)
    if kind is samplers.TopPSampler:
        p, k = sampler.p, sampler.k
        return RandomChoice(sampler, lambda x: _top_p(x, p, k), p, k)
    return CustomSampler(sampler)


def _top_p(probabilities, p, k):
    """Keeps the most probable ids up to the one at which their sum exceeds `p`, at most `k`."""
    size = probabilities.shape[-1]
    values, ids = ops.top_k(probabilities, min(k or size, size))
    before = ops.cumsum(values, axis=-1) - values
    first = ops.arange(values.shape[-1]) == 0
    return ops.where((before <= p) | first, values, 0.0), ids


def draw(seeds: list[int], length: int) -> np.ndarray:
    """Returns random numbers, float32 `(length, rows)` in [0, 1), from one stream per seed."""
    streams = [np.random.default_rng(seed).random(length, dtype="float32") for seed in seeds]
    # Scaled, since the product of a number just below 1 and the sum of the probabilities can round
    # to the sum itself, which lies behind the last id.
    return np.stack(streams, axis=1) * np.float32(1 - 1e-6)


def row_seeds(seed: Any, sampler_seed: int | None, count: int) -> list[int]:
    """Returns a seed for each row.

    Args:
        seed: a list of seeds, or one integer, to which the number of the row is added; None for the
            seed of the sampler, or new seeds if it has none.
        sampler_seed: the seed of the sampler, or None.
        count: number of rows.

    Raises:
        ValueError: `seed` is something else, or a list of another length.
    """
    seed = sampler_seed if seed is None else seed
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    if _is_integer(seed):
        return [seed + i for i in range(count)]
    valid = isinstance(seed, list | tuple) and len(seed) == count and all(map(_is_integer, seed))
    if not valid:
        raise ValueError(
            "`seed` must be an integer that is not negative, or a list of one for each of the "
            f"{count} inputs. Received: seed={seed!r}"
        )
    return list(seed)


def _is_integer(value) -> bool:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and int(value) >= 0
