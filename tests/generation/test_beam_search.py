import itertools

import numpy as np
import pytest
from keras import ops

from keras_multimodel.generation import BeamSearch
from keras_multimodel.generation.beam_search import BeamLoop
from keras_multimodel.generation.loop import SamplingLoop
from keras_multimodel.generation.samplers import Greedy
from tests.generation.writers import Table, build_ids, run

SEEDS, SIZE, LENGTH = 100, 5, 5
END = 1


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(size=(SEEDS, (SIZE + 1) ** LENGTH, SIZE)) * 2


def outputs():
    """Yields all outputs: ids from 1 on, an end at most, and there or at the length's limit."""
    for length in range(1, LENGTH + 1):
        for ids in itertools.product(range(2, SIZE), repeat=length - 1):
            yield (*ids, END)
    yield from itertools.product(range(2, SIZE), repeat=LENGTH)


def best_output(logits, penalty):
    """Searches exhaustively the output of the best score."""
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def score(ids):
        steps = [log_probability[Table.number(ids[:t], SIZE), x] for t, x in enumerate(ids)]
        return sum(steps) / ((5 + len(ids)) / 6) ** penalty

    best = max(outputs(), key=score)
    return best, score(best)


@pytest.mark.parametrize("penalty", [0.0, 0.8])
def test_finds_the_best_output_of_all(logits, penalty):
    beams = BeamSearch(121, penalty)  # 81 that go on after four ids, and 40 that have ended
    state = run(BeamLoop(Table(logits), beams), SEEDS, LENGTH)
    ids = ops.convert_to_numpy(state["ids"]).reshape(SEEDS, 121, LENGTH)
    scores = ops.convert_to_numpy(state["log_probability"] / beams.penalty(state["length"]))
    for seed in range(SEEDS):
        expected, score = best_output(logits[seed], penalty)
        best = scores[seed].argmax()
        assert tuple(ids[seed, best][: len(expected)]) == expected
        assert not ids[seed, best][len(expected) :].any()
        np.testing.assert_allclose(scores[seed, best], score, rtol=1e-4)


def test_one_beam_is_greedy(logits):
    table = Table(logits)
    greedy = run(SamplingLoop(table, Greedy()), SEEDS, LENGTH)
    beam = run(BeamLoop(table, BeamSearch(1)), SEEDS, LENGTH)
    for key in ("ids", "ended"):
        np.testing.assert_array_equal(*(ops.convert_to_numpy(s[key]) for s in (greedy, beam)))


def test_ended_beams_are_frozen_and_the_search_stops():
    # The end is by far the likeliest: one beam ends at once, two after one more id.
    logits = np.full((1, (SIZE + 1) ** 7, SIZE), -20.0)
    logits[..., END] = 0.0
    state = run(BeamLoop(Table(logits), BeamSearch(3, 0.0)), 1, 7)
    assert int(state["index"]) == 2
    assert ops.convert_to_numpy(state["ended"]).all()
    assert sorted(ops.convert_to_numpy(state["length"])[0].tolist()) == [1, 2, 2]


def test_the_best_hypotheses_with_their_scores():
    model = build_ids()
    inputs = [np.array([3, 4, 5, 1]), np.array([7, 1])]
    outputs = model.generate("copy", inputs, sampler=BeamSearch(4, length_penalty=0.5))
    for output, hypotheses in zip(outputs, outputs.hypotheses):
        assert len(hypotheses) == 4
        np.testing.assert_array_equal(output, hypotheses[0].output)
        scores = [h.score for h in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(h.output) for h in hypotheses}) == 4
    chosen = [hypotheses[-1] for hypotheses in outputs.hypotheses]
    expected = model.score("copy", inputs, [h.output for h in chosen])
    lengths = np.array([len(h.output) for h in chosen])
    found = np.array([h.score for h in chosen]) * ((5 + lengths) / 6) ** 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    again = model.generate("copy", inputs[1:], sampler=BeamSearch(4, length_penalty=0.5))
    np.testing.assert_array_equal(again[0], outputs[1])
    recomputed = model.generate("copy", inputs, BeamSearch(4, length_penalty=0.5), use_cache=False)
    assert [list(x) for x in recomputed] == [list(x) for x in outputs]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_beams": 0}, "`num_beams` must be a positive integer. Received: num_beams=0"),
        ({"num_beams": 2.0}, "`num_beams` must be a positive integer. Received: num_beams=2.0"),
        ({"length_penalty": -1}, "`length_penalty` must not be negative. .*length_penalty=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BeamSearch(**arguments)
