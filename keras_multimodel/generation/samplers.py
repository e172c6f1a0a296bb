"""How the next id is chosen: keras-nlp's samplers, each row with random numbers of its own.

A sampler of keras-nlp draws for all rows of a batch from one stream, so that a row's output depends
on the rows around it. Here the number that decides is drawn outside, one a row and step, and the
sampler's own restriction of the probabilities decides which id it falls on.
"""

import numpy as np
from keras import ops

from keras_multimodel.generation.beam_search import BeamSearch

NAMES = ("greedy", "beam", "random", "top_k", "top_p")


class Greedy:
    """Takes the most probable id."""

    key: tuple = ("greedy",)
    seed = None
    random = False
    variables: tuple = ()

    def choose(self, logits, draws):
        """Returns int32 `(batch,)`.

        Args:
            logits: float32 `(batch, vocabulary_size)`, -inf where an id is not allowed.
            draws: float32 `(batch,)` in [0, 1).
        """
        return ops.cast(ops.argmax(logits, axis=-1), "int32")


class Drawn:
    """Draws from the probabilities that a sampler of keras-nlp leaves.

    Args:
        sampler: a `RandomSampler`, `TopKSampler` or `TopPSampler`.
        restrict: from `(batch, vocabulary_size)` probabilities to `(batch, n)` and their ids, or to
            the probabilities themselves and None.
        settings: what tells samplers of this class apart.
    """

    random = True
    variables: tuple = ()

    def __init__(self, sampler, restrict, *settings):
        self.sampler = sampler
        self.restrict = restrict
        self.seed = sampler.seed
        self.key = (type(sampler).__name__, sampler.temperature, *settings)

    def choose(self, logits, draws):
        """See `Greedy.choose`."""
        probabilities, ids = self.restrict(self.sampler.compute_probabilities(logits))
        total = ops.cumsum(probabilities, axis=-1)
        passed = total <= draws[:, None] * total[:, -1:]
        place = ops.sum(ops.cast(passed, "int32"), axis=-1, keepdims=True)
        place = ops.minimum(place, total.shape[-1] - 1)
        chosen = place if ids is None else ops.take_along_axis(ids, place, axis=-1)
        return ops.cast(chosen[:, 0], "int32")


class Custom:
    """Asks a user's own subclass of keras-nlp's `Sampler`.

    Args:
        sampler: the sampler.
    """

    seed = None
    random = False

    def __init__(self, sampler):
        self.sampler = sampler
        self.key = (type(sampler).__name__, id(sampler))
        self.variables = tuple(sampler.variables)

    def choose(self, logits, draws):
        """See `Greedy.choose`."""
        probabilities = self.sampler.compute_probabilities(logits)
        # Where a row has ended, a constraint may allow nothing.
        probabilities = ops.where(ops.isnan(probabilities), 1.0, probabilities)
        return ops.cast(self.sampler.get_next_token(probabilities), "int32")


def resolve(sampler):
    """Returns what chooses ids: one of the classes above, or a `BeamSearch`.

    Args:
        sampler: one of `NAMES`, a sampler of keras-nlp or a `BeamSearch`.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(sampler, BeamSearch):
        return sampler
    known = isinstance(sampler, str) and sampler in NAMES
    if known and sampler == "greedy":
        return Greedy()
    if known and sampler == "beam":
        return BeamSearch()
    from keras_nlp import samplers  # takes seconds to import, and most calls do not need it

    chosen = samplers.get(sampler) if known else sampler
    unfit = (samplers.ContrastiveSampler, *_speculative(samplers))
    if not isinstance(chosen, samplers.Sampler) or isinstance(chosen, unfit):
        raise ValueError(
            f"`sampler` must be one of {', '.join(NAMES)}, a sampler of keras-nlp that needs "
            f"no more than probabilities, or a BeamSearch. Received: sampler={sampler!r}"
        )
    return _adapted(chosen, samplers)


def _speculative(samplers):
    found = getattr(samplers, "SpeculativeSampler", None)
    return () if found is None else (found,)


def _adapted(sampler, samplers):
    """Returns a class of this module for a sampler object of keras-nlp."""
    kind = type(sampler)
    if kind is samplers.GreedySampler:
        return Greedy()
    if kind is samplers.BeamSampler:
        return BeamSearch(sampler.num_beams, length_penalty=0.0)
    if kind is samplers.RandomSampler:
        return Drawn(sampler, lambda p: (p, None))
    if kind is samplers.TopKSampler:
        return Drawn(sampler, lambda p: ops.top_k(p, min(sampler.k, p.shape[-1])), sampler.k)
    if kind is samplers.TopPSampler:
        return Drawn(sampler, lambda p: _top_p(p, sampler.p, sampler.k), sampler.p, sampler.k)
    return Custom(sampler)


def _top_p(probabilities, p, k):
    """Keeps the most probable ids up to the one whose sum exceeds `p`, among the `k` first."""
    size = probabilities.shape[-1]
    values, ids = ops.top_k(probabilities, min(k or size, size))
    before = ops.cumsum(values, axis=-1) - values
    first = ops.arange(values.shape[-1]) == 0
    return ops.where((before <= p) | first, values, 0.0), ids


def draw(seeds: list[int], length: int) -> np.ndarray:
    """Returns float32 `(length, rows)` in [0, 1), a stream for each seed."""
    streams = [np.random.default_rng(seed).random(length, dtype="float32") for seed in seeds]
    return np.stack(streams, axis=1) * np.float32(1 - 1e-6)


def row_seeds(seed, sampler_seed, count: int) -> list[int]:
    """Returns a seed for each row.

    Args:
        seed: a list of them, or one integer, to which the row's number is added; None for that of
            the sampler, or without one for new ones.
        sampler_seed: the sampler's own, or None.
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
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0
