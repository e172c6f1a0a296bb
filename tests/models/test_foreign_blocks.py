"""Layers of Keras and keras-hub as blocks: trained, saved, loaded, padded, and writing."""

import keras
import keras_hub
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.layers.blocks import call_block
from tests.models.small_models import (
    HIDDEN_DIM,
    build,
    make_batch,
    make_tasks,
    max_difference,
    numpy_outputs,
)

BLOCKS = {
    "attention": lambda: keras.layers.MultiHeadAttention(2, HIDDEN_DIM // 2),
    "encoder": lambda: keras_hub.layers.TransformerEncoder(24, 2),
    "decoder": lambda: keras_hub.layers.TransformerDecoder(24, 2),
}
# The encoder looks ahead, so it can stand where no task writes.
PLACES = {
    "attention": ({"attention_block": "attention"}, ("copy", "topic")),
    "attention_to_itself": ({"conv_block": "attention"}, ("topic",)),
    "encoder": ({"conv_block": "encoder"}, ("topic",)),
    "decoder": ({"attention_block": "decoder"}, ("copy", "topic")),
}


def make(place):
    templates, tasks = PLACES[place]
    arguments = {slot: BLOCKS[name]() for slot, name in templates.items()}
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    return build(make_tasks(*tasks), moe=None, **sizes, **arguments)


@pytest.mark.parametrize("place", PLACES)
def test_trains_and_comes_back(place, tmp_path):
    model = make(place)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    x, y = make_batch(model.tasks.values(), (5, 2))
    before = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    model.fit(x, y, epochs=3, verbose=0)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["loss"] < before
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    one, other = (real_outputs(m, x, y) for m in (model, loaded))
    assert max_difference(one, other) < 1e-6
    # More padding changes nothing: their masks have other names, and are passed all the same.
    longer = {name: dict(part) for name, part in x.items()}
    for part in longer.values():
        part["inputs"] = np.pad(part["inputs"], [(0, 0), (0, 3)])
    assert max_difference(one, real_outputs(model, longer, y)) < 1e-5


def real_outputs(model, x, y):
    """Returns the outputs at real targets."""
    outputs = numpy_outputs(model(x, training=False))
    return {name: out[y[name] != 0] if out.ndim == 3 else out for name, out in outputs.items()}


@pytest.mark.parametrize("place", ["attention", "decoder"])
def test_reads_the_source_and_writes(place):
    model = make(place)
    x, _ = make_batch(model.tasks.values(), (5, 2))
    changed = {**x, "copy": {**x["copy"], "inputs": np.flip(x["copy"]["inputs"], 1).copy()}}
    one, other = (numpy_outputs(model(v, training=False)) for v in (x, changed))
    assert np.abs(one["copy"] - other["copy"]).max() > 1e-4
    inputs = [np.array([3, 4, 1]), np.array([5, 1])]
    written = [model.generate("copy", inputs, max_length=3, use_cache=c) for c in (True, False)]
    for cached, recomputed in zip(*written):
        np.testing.assert_array_equal(cached, recomputed)


@pytest.mark.parametrize("name", BLOCKS)
def test_masks_reach_the_block(name):
    block = BLOCKS[name]()
    rng = np.random.default_rng(0)
    x, source = rng.normal(size=(2, 1, 6, HIDDEN_DIM)).astype("float32")
    mask = np.arange(6)[None] < 4
    sources = {"source": source, "source_mask": mask} if name != "encoder" else {}
    one = call_block(block, x, False, mask=mask, **sources)
    if sources:
        sources["source"] = np.where(mask[..., None], source, 9.0).astype("float32")
    x = np.where(mask[..., None], x, 9.0).astype("float32")
    other = call_block(block, x, False, mask=mask, **sources)
    difference = keras.ops.convert_to_numpy(one) - keras.ops.convert_to_numpy(other)
    assert np.abs(difference[:, :4]).max() < 1e-6


def test_what_looks_ahead_is_refused_where_a_task_writes():
    with pytest.raises(ValueError, match="`conv_block` must be causal in the decoder"):
        kmm.MultiModel(make_tasks("copy"), HIDDEN_DIM, conv_block=BLOCKS["encoder"](), moe=None)


def test_a_class_that_is_defined_anew_is_checked_anew():
    """As in a notebook, whose cell has changed and runs once more."""

    def build_of_one_name(look_ahead):
        @keras.saving.register_keras_serializable(package="test_foreign_blocks")
        class Own(keras.layers.Layer):
            def call(self, x):
                return x + keras.ops.flip(x, 1) if look_ahead else x

        block = keras.Sequential([keras.Input((None, HIDDEN_DIM)), Own()])
        sizes = {"num_encoder_blocks": 1, "num_decoder_blocks": 1}
        kmm.MultiModel(make_tasks("copy"), HIDDEN_DIM, conv_block=block, moe=None, **sizes)

    build_of_one_name(look_ahead=False)
    with pytest.raises(ValueError, match="`conv_block` must be causal in the decoder"):
        build_of_one_name(look_ahead=True)
