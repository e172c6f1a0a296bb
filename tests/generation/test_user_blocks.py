"""Blocks of a user, with the stepping protocol and without."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.generation import caches
from keras_multimodel.layers.attention_block import Attention
from tests.generation.writers import NO_END, build_ids
from tests.models.small_models import HIDDEN_DIM

INPUTS = [np.array([3, 4, 5, 1]), np.array([7, 1])]


@keras.saving.register_keras_serializable(package="tests")
class RunningMean(keras.layers.Layer):
    """Adds the mean of all inputs so far; knows nothing of steps."""

    def call(self, inputs):
        count = ops.arange(1, ops.shape(inputs)[1] + 1, dtype=inputs.dtype)
        return inputs + ops.cumsum(inputs, axis=1) / count[:, None]


@keras.saving.register_keras_serializable(package="tests")
class SteppingMean(RunningMean):
    """The same, and can step."""

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        return ops.zeros((batch_size, HIDDEN_DIM))

    def step(self, inputs, cache, index):
        cache = cache + inputs
        return inputs + cache / ops.cast(index + 1, cache.dtype), cache


@keras.saving.register_keras_serializable(package="tests")
class Doubled(keras.layers.Layer):
    """Treats every position alone."""

    position_wise = True

    def call(self, inputs):
        return inputs * 2.0


@keras.saving.register_keras_serializable(package="tests")
class Prefixed(keras.layers.Layer):
    """Attends to what was written and to one more position before it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = Attention(HIDDEN_DIM, 2, causal=True)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, inputs):
        x = ops.pad(inputs, [[0, 0], [1, 0], [0, 0]], constant_values=1.0)
        return inputs + self.attention(x, x)[:, 1:]

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        cache = self.attention.initial_cache(batch_size, max_length + 1)
        return self.attention.step(ops.ones((batch_size, HIDDEN_DIM)), cache, 0)[1]

    def step(self, inputs, cache, index):
        found, cache = self.attention.step(inputs, cache, index + 1)
        return inputs + found, cache


@keras.saving.register_keras_serializable(package="tests")
class HalfRate(Prefixed):
    """Attends to every second position only."""

    def call(self, inputs):
        x = inputs[:, ::2]
        return inputs + ops.repeat(self.attention(x, x), 2, axis=1)[:, : ops.shape(inputs)[1]]

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        cache = self.attention.initial_cache(batch_size, max_length)
        return {"attention": cache, "even": ops.zeros((batch_size, HIDDEN_DIM))}

    def step(self, inputs, cache, index):
        even = ops.where(index % 2 == 0, inputs, cache["even"])
        found, attention = self.attention.step(even, cache["attention"], index // 2)
        return inputs + found, {"attention": attention, "even": even}


def generate(block, **arguments):
    model = build_ids(conv_block=block)
    outputs = [
        model.generate("copy", INPUTS, use_cache=use_cache, **arguments)
        for use_cache in (True, False)
    ]
    assert [list(x) for x in outputs[0]] == [list(x) for x in outputs[1]]
    return [list(x) for x in outputs[0]]


@pytest.mark.slow
def test_a_block_that_steps_needs_no_warning():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*initial_cache")
        generate(SteppingMean())
        generate(Doubled())


def test_a_block_without_the_protocol_generates_with_one_warning():
    caches._warned.clear()
    with pytest.warns(UserWarning, match="`RunningMean` has no `initial_cache` and `step`") as seen:
        outputs = generate(RunningMean())
    assert sum("initial_cache" in str(w.message) for w in seen) == 1
    assert outputs == generate(SteppingMean())


@pytest.mark.slow
def test_beam_search_reorders_what_it_keeps():
    arguments = {"sampler": "beam", "max_length": 4}
    assert generate(RunningMean(), **arguments) == generate(SteppingMean(), **arguments)


def test_without_attention():
    model = build_ids(attention_block=None)
    outputs = [model.generate("copy", INPUTS, use_cache=cache) for cache in (True, False)]
    assert [list(x) for x in outputs[0]] == [list(x) for x in outputs[1]]


@pytest.mark.parametrize("block", [Prefixed, HalfRate])
@pytest.mark.parametrize("sampler", [pytest.param("greedy", marks=pytest.mark.slow), "beam"])
def test_attention_within_a_block_has_positions_of_its_own(block, sampler):
    outputs = generate(block(), sampler=sampler, max_length=11, constraint=NO_END)
    assert [len(x) for x in outputs] == [11, 11]
