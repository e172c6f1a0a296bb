import keras
import numpy as np
import pytest
from keras import ops
from keras_nlp import samplers as keras_nlp_samplers

from keras_multimodel.generation import BeamSearch
from keras_multimodel.generation.samplers import Greedy, draw, resolve, row_seeds
from tests.generation.writers import build_ids

PROBABILITIES = np.array([0.05, 0.4, 0.3, 0.15, 0.1])


def frequencies(sampler):
    """Returns how often each id is chosen over numbers spread evenly."""
    draws = ((np.arange(2000) + 0.5) / 2000).astype("float32")
    logits = np.tile(np.log(PROBABILITIES), (2000, 1)).astype("float32")
    chosen = resolve(sampler).choose(ops.convert_to_tensor(logits), ops.convert_to_tensor(draws))
    return np.bincount(ops.convert_to_numpy(chosen), minlength=5) / 2000


@pytest.mark.parametrize(
    "sampler, expected",
    [
        (keras_nlp_samplers.RandomSampler(), PROBABILITIES),
        (keras_nlp_samplers.RandomSampler(temperature=0.5), PROBABILITIES**2 / 0.285),
        (keras_nlp_samplers.TopKSampler(k=2), [0, 4 / 7, 3 / 7, 0, 0]),
        (keras_nlp_samplers.TopKSampler(k=99), PROBABILITIES),
        # 0.4 does not exceed 0.5, 0.4 + 0.3 does.
        (keras_nlp_samplers.TopPSampler(p=0.5), [0, 4 / 7, 3 / 7, 0, 0]),
        (keras_nlp_samplers.TopPSampler(p=0.1), [0, 1, 0, 0, 0]),
        (keras_nlp_samplers.TopPSampler(p=1.0, k=3), [0, 8 / 17, 6 / 17, 3 / 17, 0]),
        (keras_nlp_samplers.GreedySampler(), [0, 1, 0, 0, 0]),
        ("greedy", [0, 1, 0, 0, 0]),
    ],
)
def test_ids_come_as_often_as_they_should(sampler, expected):
    np.testing.assert_allclose(frequencies(sampler), expected, atol=2e-3)


def test_names_and_beams():
    assert isinstance(resolve("greedy"), Greedy)
    assert isinstance(resolve("beam"), BeamSearch)
    assert resolve(keras_nlp_samplers.BeamSampler(num_beams=3)).key == ("beam", 3, 0.0)
    assert resolve("top_k").sampler.k == keras_nlp_samplers.TopKSampler().k


@pytest.mark.parametrize("sampler", ["best", 3, None, keras_nlp_samplers.ContrastiveSampler()])
def test_unknown_samplers(sampler):
    with pytest.raises(ValueError, match="`sampler` must be one of greedy, .* Received: sampler="):
        resolve(sampler)


def test_draws_of_a_row_are_its_own():
    together = draw([5, 9], 6)
    np.testing.assert_array_equal(together[:, 1:], draw([9], 6))
    assert together.shape == (6, 2) and (together >= 0).all() and (together < 1).all()


def test_row_seeds():
    assert row_seeds(7, None, 3) == [7, 8, 9]
    assert row_seeds([4, 4, 1], None, 3) == [4, 4, 1]
    assert row_seeds(None, 2, 2) == [2, 3]
    assert row_seeds(None, None, 1) != row_seeds(None, None, 1)


@pytest.mark.parametrize("seed", [[1, 2], -1, 1.5, True, "1"])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="`seed` must be an integer .* Received: seed="):
        row_seeds(seed, None, 3)


@pytest.mark.slow
def test_rows_equal_the_same_inputs_one_by_one():
    model = build_ids()
    inputs = [np.array([3, 4, 5, 1]), np.array([7, 1]), np.array([6, 2, 6, 2, 6, 2, 6, 2, 6, 1])]
    sampler = keras_nlp_samplers.TopKSampler(k=4, temperature=2.0)
    seeds = [11, 4, 11]
    together = model.generate("copy", inputs, sampler, seed=seeds)
    alone = [model.generate("copy", [x], sampler, seed=[seed])[0] for x, seed in zip(inputs, seeds)]
    assert [list(x) for x in together] == [list(x) for x in alone]
    recomputed = model.generate("copy", inputs, sampler, seed=seeds, use_cache=False)
    assert [list(x) for x in together] == [list(x) for x in recomputed]
    others = model.generate("copy", inputs, sampler, seed=[1, 2, 3])
    assert [list(x) for x in together] != [list(x) for x in others]


class Worst(keras_nlp_samplers.Sampler):
    """Takes the least probable id, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(1)

    def get_next_token(self, probabilities):
        self.seed_generator.next()
        possible = ops.where(probabilities > 0, probabilities, 2.0)
        return ops.argmin(possible, axis=-1)


def test_a_sampler_of_the_user():
    model = build_ids()
    sampler = Worst()
    before = ops.convert_to_numpy(sampler.seed_generator.state).copy()
    (output,) = model.generate("copy", [np.array([3, 4, 1])], sampler, max_length=3)
    assert 1 <= len(output) <= 3
    after = ops.convert_to_numpy(sampler.seed_generator.state)
    assert after[1] - before[1] == len(output)
