"""Blocks of a user, with the stepping protocol and without."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.models import stepping
from tests.decoding.writers import build_ids
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


def generate(block, **arguments):
    model = build_ids(conv_block=block)
    outputs = [
        model.generate("copy", INPUTS, use_cache=use_cache, **arguments)
        for use_cache in (True, False)
    ]
    assert [list(x) for x in outputs[0]] == [list(x) for x in outputs[1]]
    return [list(x) for x in outputs[0]]


def test_a_block_that_steps_needs_no_warning():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*initial_cache")
        generate(SteppingMean())
        generate(Doubled())


def test_a_block_without_the_protocol_generates_with_one_warning():
    stepping._warned.clear()
    with pytest.warns(UserWarning, match="`RunningMean` has no `initial_cache` and `step`") as seen:
        outputs = generate(RunningMean())
    assert sum("initial_cache" in str(w.message) for w in seen) == 1
    assert outputs == generate(SteppingMean())


def test_beam_search_reorders_what_it_keeps():
    arguments = {"sampler": "beam", "max_length": 4}
    assert generate(RunningMean(), **arguments) == generate(SteppingMean(), **arguments)


def test_without_attention():
    model = build_ids(attention_block=None)
    outputs = [model.generate("copy", INPUTS, use_cache=cache) for cache in (True, False)]
    assert [list(x) for x in outputs[0]] == [list(x) for x in outputs[1]]
