"""Every part swapped for another: built, trained for an epoch, saved, loaded."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.layers import ConvBlock, FeedForward
from tests.models.small_models import (
    HIDDEN_DIM,
    build,
    make_batch,
    make_tasks,
    max_difference,
    numpy_outputs,
    set_weights,
)


@keras.saving.register_keras_serializable(package="tests")
class Gate(keras.layers.Layer):
    """A user's own block: no mask, no padding, no hidden_dim, only `call(inputs)`."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, input_shape):
        self.gate = keras.layers.Dense(input_shape[-1], activation="sigmoid", name="gate")
        self.gate.build(input_shape)

    def call(self, inputs):
        return inputs * self.gate(inputs) * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def conv1d():
    return keras.layers.Conv1D(HIDDEN_DIM, 3, padding="causal", activation="relu")


ABLATIONS = {
    "no_experts": lambda: {"moe": None},
    "dense_experts": lambda: {"moe": FeedForward(HIDDEN_DIM, 32)},
    "no_attention": lambda: {"attention_block": None},
    "dense_convolutions": lambda: {"conv_block": FeedForward(HIDDEN_DIM, 32)},
    "short_convolutions": lambda: {"conv_block": ConvBlock(HIDDEN_DIM, kernel_sizes=(3, 3))},
    "no_convolutions": lambda: {"conv_block": None},
    "own_block": lambda: {"conv_block": Gate(0.5), "moe": Gate()},
    "own_attention": lambda: {"attention_block": Gate()},
    "convolutions_of_keras": lambda: {"conv_block": conv1d()},
    "recurrent": lambda: {"conv_block": keras.layers.GRU(HIDDEN_DIM, return_sequences=True)},
    "nothing": lambda: {"conv_block": None, "attention_block": None, "moe": None},
}


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", ABLATIONS)
def test_trains_and_comes_back(name, tmp_path):
    model = build(make_tasks("copy", "topic"), num_encoder_blocks=1, **ABLATIONS[name]())
    # Step by step, since tracing takes most of the time of so short a training.
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    x, y = make_batch(model.tasks.values(), (4, 3))
    before = [ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    history = model.fit(x, y, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"][0])
    changed = [
        np.abs(ops.convert_to_numpy(weight) - old).max() > 0
        for weight, old in zip(model.trainable_weights, before)
    ]
    assert np.mean(changed) > 0.9  # all but, perhaps, an expert that saw no token
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert max_difference(*(numpy_outputs(m(x)) for m in (model, again))) < 1e-5
    for argument, block in ABLATIONS[name]().items():
        config = again.get_config()[argument]
        assert (config and config["class_name"]) == (block and type(block).__name__)


@pytest.mark.parametrize("name", ["no_attention", "own_attention", "nothing"])
def test_the_input_still_matters_without_attention(name):
    model = set_weights(build(make_tasks("copy"), **ABLATIONS[name]()))
    x, _ = make_batch(model.tasks.values(), (5, 4))
    before = numpy_outputs(model(x))["copy"]
    for position in (0, 3):  # aligned with some target, and beyond the first
        inputs = x["copy"]["inputs"].copy()
        inputs[:, position] = inputs[:, position] % 10 + 1
        after = numpy_outputs(model({"copy": {**x["copy"], "inputs": inputs}}))["copy"]
        assert np.abs(after - before)[:, 0].max() > 1e-3


def test_an_own_block_gets_what_its_call_takes():
    model = build(make_tasks("copy"), conv_block=Gate(0.5))
    assert [type(block) for block in model.body.encoder.blocks] == [Gate, Gate]
    assert model.body.mixer.blocks[0].factor == 0.5
    assert model.body.decoder.blocks[0][0] is not model.body.mixer.blocks[0]


def test_a_same_padded_block_becomes_causal_in_the_decoder():
    model = build(make_tasks("copy"), conv_block=keras.layers.Conv1D(16, 3, padding="same"))
    assert model.body.encoder.blocks[0].padding == "same"
    assert model.body.decoder.blocks[0][0].padding == "causal"
    assert model.body.mixer.blocks[0].padding == "causal"


def test_no_attention_leaves_the_decoder_its_convolutions():
    model = build(make_tasks("copy"), attention_block=None, num_decoder_blocks=2)
    assert [len(block) for block in model.body.decoder.blocks] == [1, 1]
    assert model.body.mixer.attention is None and model.body.mixer.join_norm is not None
