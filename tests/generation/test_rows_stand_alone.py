"""A row of a batch gets what its input gets alone, and in any other batch."""

import pytest
from keras_nlp import samplers as keras_nlp_samplers

from keras_multimodel.generation import BeamSearch
from tests.generation.writers import INPUTS, build

SAMPLERS = {
    "greedy": "greedy",
    "random": "random",
    "top_k": keras_nlp_samplers.TopKSampler(k=5, temperature=2.0),
    "top_p": keras_nlp_samplers.TopPSampler(p=0.9),
    "beam": BeamSearch(3),
}
SEEDS = [11, 4, 7]


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "task", ["text", *(pytest.param(t, marks=pytest.mark.slow) for t in INPUTS if t != "text")]
)
def test_rows_stand_alone(model, task, sampler):
    inputs, sampler = INPUTS[task], SAMPLERS[sampler]
    outputs = model.generate(task, inputs, sampler, seed=SEEDS)
    turned = model.generate(task, inputs[::-1], sampler, seed=SEEDS[::-1])
    assert list(turned[::-1]) == list(outputs) and turned.ended[::-1] == outputs.ended
    alone = model.generate(task, inputs[1:2], sampler, seed=SEEDS[1:2])
    assert list(alone) == outputs[1:2] and alone.ended == outputs.ended[1:2]


@pytest.mark.parametrize("sampler", ["random", "top_k", "top_p"])
def test_another_seed_writes_something_else(model, sampler):
    inputs, sampler = INPUTS["text"], SAMPLERS[sampler]
    first, second = (model.generate("text", inputs, sampler, seed=n) for n in (0, 50))
    assert first != second
