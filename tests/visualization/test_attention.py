import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

import keras_multimodel as kmm
from keras_multimodel import _keras_compat
from keras_multimodel.layers.attention_block import Attention
from keras_multimodel.visualization import attention_weights
from tests.models import test_rows
from tests.models.small_models import HIDDEN_DIM, build, make_tasks, set_weights
from tests.references import array, softmax

INPUTS, TARGETS = np.array([3, 4, 5, 6, 1]), np.array([7, 8, 1])
SOURCE = ("mixer/attention_block/source_attention", "decoder/attention_block_0/source_attention")
SELF = tuple(name.replace("source", "self") for name in SOURCE)


def small(*tasks, **blocks):
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    return set_weights(build(make_tasks(*tasks), **{"moe": None, **sizes, **blocks}))


@pytest.fixture(scope="module")
def model():
    return small("copy", "topic", "speech")


def by_numpy(layer, targets, source, mask=None):
    """The weights from the kernels alone, `(batch, heads, T, S)`."""
    heads, size = layer.head_shape
    queries, keys = (
        (array(x) @ array(dense.kernel)).reshape(*x.shape[:2], heads, size)
        for x, dense in ((targets, layer.query), (source, layer.key))
    )
    scores = np.einsum("btnh,bsnh->bnts", queries, keys) / size**0.5
    visible = np.ones(scores.shape, bool)
    if mask is not None:
        visible &= np.asarray(mask, bool)[:, None, None, :]
    if layer.causal:
        visible &= np.tri(*scores.shape[2:], dtype=bool)
    return softmax(np.where(visible, scores, -1e30))


@pytest.mark.parametrize("causal", [False, True])
def test_weights_of_a_layer_are_those_of_its_kernels(causal):
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(2, 4, 8)).astype("float32")
    source = targets if causal else rng.normal(size=(2, 6, 8)).astype("float32")
    mask = np.arange(source.shape[1]) < [[3], [2]]
    layer = Attention(8, 2, causal=causal)
    y = array(layer(targets, source, source_mask=mask))
    weights = array(layer.attention_weights(targets, source, mask))
    np.testing.assert_allclose(weights, by_numpy(layer, targets, source, mask), atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    assert not weights[0, ..., 3:].any() and not weights[1, ..., 2:].any()
    # They are the weights that `call` multiplies the values with.
    values = (array(source) @ array(layer.value.kernel)).reshape(2, -1, 2, 4)
    found = np.einsum("bnts,bsnh->btnh", weights, values).reshape(2, -1, 8)
    np.testing.assert_allclose(found @ array(layer.output_projection.kernel), y, atol=1e-5)


def arguments_in(model, task, x):
    """Layer -> the arguments with which the model calls it, noted by another way."""
    layers = [x for x in _keras_compat.all_layers(model) if isinstance(x, Attention)]
    seen, originals = {}, [layer.call for layer in layers]
    for layer, call in zip(layers, originals):
        layer.call = lambda *a, layer=layer, call=call, **k: (
            seen.setdefault(layer.path, (layer, *a, *k.values())) and None or call(*a, **k)
        )
    model.task_model(task)(x, training=False)
    for layer in layers:
        del layer.call
    return seen


def test_weights_of_a_model(model):
    maps = attention_weights(model, "copy", INPUTS, TARGETS)
    assert tuple(maps) == (SELF[0], SOURCE[0], SELF[1], SOURCE[1])
    x = {"copy": {"inputs": np.array([[3, 4, 5, 6, 1, 0, 0, 0]]), "targets": TARGETS[None]}}
    for name, (layer, *given) in arguments_in(model, "copy", x).items():
        columns = 5 if name in SOURCE else 3
        expected = by_numpy(layer, *given)[0, :, :, :columns]
        np.testing.assert_allclose(maps[name].weights, expected, atol=1e-5)
        np.testing.assert_allclose(maps[name].weights.sum(axis=-1), 1.0, atol=1e-5)
        assert maps[name].rows == ["7", "8", "1"]  # no vocabulary: ids
    found = maps[SOURCE[1]]
    assert found.columns == ["3", "4", "5", "6", "1"] and len(found.parts) == 1
    np.testing.assert_array_equal(found.parts[0].array, INPUTS)
    assert maps[SELF[1]].columns == ["(command copy)", "7", "8"] and not maps[SELF[1]].parts
    # Nothing later is seen.
    assert not np.triu(maps[SELF[1]].weights, 1).any()
    for layer in _keras_compat.all_layers(model):
        assert not callable(vars(layer).get("call"))  # everything is as before


def test_padding_gets_nothing_and_changes_nothing(model):
    # Five positions stand in a batch of eight, nine in one of sixteen.
    short, longer = (
        attention_weights(model, "copy", ids, TARGETS)[SOURCE[1]]
        for ids in (INPUTS, np.concatenate([INPUTS[:-1], INPUTS]))
    )
    assert short.weights.shape == (2, 3, 5) and longer.weights.shape == (2, 3, 9)
    np.testing.assert_allclose(longer.weights.sum(axis=-1), 1.0, atol=1e-5)


def test_by_default_it_reads_what_the_model_writes(model):
    (written,) = model.generate("copy", [INPUTS], max_length=5)
    found = attention_weights(model, "copy", INPUTS)
    expected = attention_weights(model, "copy", INPUTS, written)
    for name in found:
        np.testing.assert_array_equal(found[name].weights, expected[name].weights)


def test_sound_has_positions_in_time(model):
    sound = np.random.default_rng(0).normal(size=24).astype("float32")
    found = attention_weights(model, "speech", sound, TARGETS)[SOURCE[1]]
    # Two halvings: 24 samples are 6 positions.
    assert found.weights.shape == (2, 3, 6) and found.parts[0].stride == 4
    np.testing.assert_array_equal(found.parts[0].array, sound)


def test_parts_stand_side_by_side_and_a_missing_one_gets_nothing():
    rows = test_rows.make_model()
    photo = np.arange(64, dtype="uint8").reshape(8, 8, 1)
    row = {"photo": photo, "title": [3, 4, 1], "size": [0.5, 1.0]}
    found = attention_weights(rows, "caption", row, [5, 1])[SOURCE[1]]
    assert [(part.name, len(part.labels)) for part in found.parts] == [
        ("photo", 4),
        ("title", 3),
        ("size", 2),
    ]
    assert found.parts[0].grid == (2, 2) and found.columns[:5] == [
        "1, 1",
        "1, 2",
        "2, 1",
        "2, 2",
        "3",
    ]
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1.0, atol=1e-5)
    part = attention_weights(rows, "caption", {"title": [3, 4, 1]}, [5, 1])[SOURCE[1]]
    assert [p.name for p in part.parts] == ["title"] and part.weights.shape[2] == 3
    np.testing.assert_allclose(part.weights.sum(axis=-1), 1.0, atol=1e-5)
    # A class that is read from the decoder: one row, the command.
    kind = attention_weights(rows, "kind", row)
    assert kind[SOURCE[1]].weights.shape[1:] == (1, 9)
    assert kind[SOURCE[1]].rows == [str(rows.generate("kind", [row])[0])]
    with pytest.raises(ValueError, match="`targets` must be None for task 'kind'.*targets=2"):
        attention_weights(rows, "kind", row, 2)


@keras.saving.register_keras_serializable(package="tests")
class Even(keras.layers.Layer):
    """Attention of a user's own: all positions up to the own one alike."""

    def call(self, inputs, source=None, source_mask=None):
        return inputs + keras.ops.mean(inputs) * 0 if source is None else inputs

    def attention_weights(self, inputs, source=None, source_mask=None):
        mask = ops.cast(source_mask, "float32")[:, None, None]
        weights = mask / ops.sum(mask, axis=-1, keepdims=True)
        return ops.broadcast_to(weights, (1, 1, inputs.shape[1], mask.shape[-1]))


BLOCKS = {
    "keras": lambda: keras.layers.MultiHeadAttention(2, HIDDEN_DIM // 2),
    "grouped": lambda: keras.layers.GroupQueryAttention(HIDDEN_DIM // 2, 2, 1),
    "keras_hub": lambda: keras_hub.layers.TransformerDecoder(24, 2),
    "own": Even,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_attention_of_others_is_seen(name):
    model = small("copy", attention_block=BLOCKS[name](), conv_block=None)
    maps = attention_weights(model, "copy", INPUTS, TARGETS)
    to_input = [found for found in maps.values() if found.parts]
    assert len(to_input) == 2  # mixer and decoder
    for found in maps.values():
        np.testing.assert_allclose(found.weights.sum(axis=-1), 1.0, atol=1e-5)
    for found in to_input:
        assert found.weights.shape[1:] == (3, 5) and found.columns == [str(i) for i in INPUTS]
    if name == "own":
        np.testing.assert_allclose(to_input[0].weights, 0.2, atol=1e-6)
    assert len(maps) == (4 if name == "keras_hub" else 2)


def test_attention_of_the_encoder_is_between_positions_of_the_input():
    block = keras.layers.MultiHeadAttention(2, HIDDEN_DIM // 2)
    maps = attention_weights(small("topic", conv_block=block), "topic", INPUTS)
    (found,) = maps.values()
    assert found.weights.shape == (2, 5, 5)
    assert found.rows == found.columns == [str(i) for i in INPUTS]
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1.0, atol=1e-5)


def test_pieces_of_a_vocabulary_are_labels():
    words = ["Save the file.", "Open the file."]
    text = kmm.data.train_text_preprocessor(words, 40, model_type="char", byte_fallback=False)
    pieces = kmm.data.train_word_piece_preprocessor(words, 60)
    trees = kmm.data.train_tree_preprocessor(["(S (NP (DT The) (NN file)))"])
    assert text.pieces(text("file")) == ["▁", "f", "i", "l", "e", "(end)"]
    found = pieces.pieces(pieces("Save the."))
    assert found[-1] == "(end)" and "".join(found).replace("##", "") == "Savethe.(end)"
    assert trees.pieces(trees("(S (NP (DT A)))")) == ["(S", "(NP", "DT", ")NP", ")S", "(end)"]
    assert kmm.data.Preprocessor().pieces(np.array([3, 1])) == ["3", "1"]


def test_a_model_without_attention_says_so(model):
    with pytest.raises(
        ValueError, match="`model` must have a layer of attention that task 'topic'"
    ):
        attention_weights(model, "topic", INPUTS)
    bare = small("copy", attention_block=None)
    with pytest.raises(ValueError, match=r"task 'copy' passes.*Received: .*'ConvBlock'"):
        attention_weights(bare, "copy", INPUTS, TARGETS)


@pytest.mark.parametrize(
    "given, message",
    [
        (("nothing", INPUTS), "`task` must be .*task='nothing'"),
        (("copy", np.array([])), r"`inputs` must not be empty"),
        (("copy", INPUTS, " "), "`targets` must be given where .*targets=' '"),
        (("copy", INPUTS, [99]), r"`targets\[0\]` must be from 0 to 10. Received: from 99"),
    ],
)
def test_bad_arguments(model, given, message):
    with pytest.raises(ValueError, match=message):
        attention_weights(model, *given)


def test_a_keras_model_is_refused():
    with pytest.raises(ValueError, match="`model` must be a MultiModel.*type Sequential"):
        attention_weights(keras.Sequential(), "copy", INPUTS)
