import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import MultiModel, Task, data, layers

SENTENCES = [
    "Save the file.",
    "Open the file with the editor, then save it.",
    "The user's files (all of them) are open.",
    'Press "Save" at 10:30.',
]


@pytest.fixture(scope="module")
def text():
    return data.train_word_piece_preprocessor(SENTENCES * 3, 120)


def reference_ids(vocabulary, words):
    """Longest match first, as in Devlin et al.'s tokenization.py."""
    ids = []
    for word in words:
        pieces, start = [], 0
        while start < len(word):
            ends = range(len(word), start, -1)
            candidates = (("##" if start else "") + word[start:end] for end in ends)
            piece = next((piece for piece in candidates if piece in vocabulary), None)
            if piece is None:
                pieces, start = ["[UNK]"], len(word)
            else:
                pieces.append(piece)
                start += len(piece) - 2 * (start > 0)
        ids += [vocabulary.index(piece) for piece in pieces]
    return [*ids, 1]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("Savethfilpn.,'Z", min_size=1, max_size=9), max_size=6))
def test_ids_are_the_longest_matches(text, words):
    sentence = " ".join(words)
    expected = reference_ids(text.vocabulary, re.findall(r"\w+|[^\w\s]", sentence))
    assert text(sentence).numpy().tolist() == expected


def test_special_ids(text):
    assert text.vocabulary[:3] == ["[PAD]", "[END]", "[UNK]"]
    assert text.vocabulary_size == len(text.vocabulary) <= 120
    assert text("").numpy().tolist() == [1]
    assert text("日本").numpy().tolist() == [2, 2, 1]
    # The names of special pieces are text like any other.
    assert not {0, 1} & set(text("[END] [PAD]").numpy()[:-1].tolist())


@pytest.mark.parametrize("sentence", SENTENCES + ["", "Save (it).", '"Save" the "file"'])
def test_decode_sets_the_spaces(text, sentence):
    ids = text(sentence)
    assert text.decode(ids) == sentence
    assert text.decode([0, *ids.numpy(), *ids.numpy(), 0]) == sentence


def test_decode_of_numbers_unknown_and_cjk():
    pieces = ["[PAD]", "[END]", "[UNK]", "1", ".", "5", ",", "##s", "日", "本", "don", "'", "t"]
    text = data.WordPiecePreprocessor(pieces)
    assert text.decode([3, 4, 5, 6, 5]) == "1.5,5"
    assert text.decode([10, 11, 12, 4, 3]) == "don't. 1"
    assert text.decode([8, 9, 2, 3]) == "日本 ⁇ 1"
    assert text.decode([7, 7, 3, 7]) == "ss 1s"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_output_grows_with_the_ids(text, drawn):
    index = st.integers(2, text.vocabulary_size - 1)
    ids = drawn.draw(st.lists(index, max_size=12))
    whole = text.decode(ids)
    assert all(whole.startswith(text.decode(ids[:n])) for n in range(len(ids)))


def test_lowercase():
    text = data.train_word_piece_preprocessor(SENTENCES, 120, lowercase=True)
    np.testing.assert_array_equal(text("SAVE the File"), text("save the file"))
    assert text.decode(text("SAVE the File")) == "save the file"
    assert 2 not in text("SAVE")


def test_text_is_normalised(text):
    np.testing.assert_array_equal(text("Save the \ufb01le\u2026"), text("Save the file..."))


def test_inside_tf_data(text):
    dataset = tf.data.Dataset.from_tensor_slices(SENTENCES).map(text)
    assert dataset.element_spec == tf.TensorSpec((None,), tf.int32)
    for ids, sentence in zip(dataset, SENTENCES, strict=True):
        np.testing.assert_array_equal(ids, text(sentence))


@pytest.mark.parametrize("form", [str, str.encode, np.str_, np.array, tf.constant])
def test_forms_of_a_string(text, form):
    np.testing.assert_array_equal(text(form("the file")), text("the file"))


def test_max_length_keeps_the_end(text):
    short = data.WordPiecePreprocessor(text.vocabulary, max_length=4)
    whole = text("Open the file with the editor.").numpy()
    assert short("Open the file with the editor.").numpy().tolist() == [*whole[:3], 1]
    assert data.train_word_piece_preprocessor(SENTENCES, 120, max_length=5).max_length == 5


def test_same_sentences_same_vocabulary(text):
    dataset = tf.data.Dataset.from_tensor_slices(SENTENCES * 3)
    assert data.train_word_piece_preprocessor(dataset, 120) == text


def test_a_global_seed_leaves_the_vocabulary_alone(text):
    dataset = tf.data.Dataset.from_tensors("Save it.").map(text)
    before = text("Save it.").numpy()
    keras.utils.set_random_seed(1)
    others = data.train_word_piece_preprocessor(["zyxw wxyz"] * 9, 50)
    np.testing.assert_array_equal(text("Save it."), before)
    np.testing.assert_array_equal(next(iter(dataset)), before)
    assert others.decode(others("wxyz")) == "wxyz"


@pytest.mark.slow
def test_saved_with_the_model_and_loaded_in_a_fresh_process(text, tmp_path):
    net = layers.TextModality(text.vocabulary_size, 8, preprocessor=text)
    small = {"num_encoder_blocks": 1, "num_mixer_blocks": 1, "num_decoder_blocks": 1, "moe": None}
    model = MultiModel([Task("copy", net, net)], hidden_dim=8, attention_block=None, **small)
    model.save(tmp_path / "model.keras")
    code = """
import sys, keras, keras_multimodel, numpy as np
keras.utils.set_random_seed(3)
text = keras.saving.load_model(sys.argv[1]).tasks["copy"].inputs.preprocessor
print(text("Save the files.").numpy().tolist(), text.decode(text("Save it.")), sep="\\n")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model.keras"],
        capture_output=True,
        text=True,
        check=True,
    )
    ids, decoded = ran.stdout.strip().splitlines()
    assert json.loads(ids) == text("Save the files.").numpy().tolist()
    assert decoded == "Save it."


def test_errors(text):
    with pytest.raises(ValueError, match=r"`vocabulary` must begin with \[PAD\], .*\['a'\]"):
        data.WordPiecePreprocessor(["a"])
    with pytest.raises(ValueError, match="`vocabulary` must hold no piece twice.*'a' twice"):
        data.WordPiecePreprocessor([*text.vocabulary[:3], "a", "a"])
    with pytest.raises(ValueError, match="`vocabulary` must hold strings. Received: 7"):
        data.WordPiecePreprocessor([*text.vocabulary[:3], 7])
    with pytest.raises(ValueError, match="`max_length` must be .*max_length=0"):
        data.WordPiecePreprocessor(text.vocabulary, max_length=0)
    with pytest.raises(ValueError, match="`raw` must be one string.*raw=7"):
        text(7)
    with pytest.raises(ValueError, match="can't decode byte"):
        text(b"\xff")
    size = text.vocabulary_size
    with pytest.raises(ValueError, match=rf"ids from 0 to {size - 1}.*prediction=\[{size}\]"):
        text.decode([size])


def test_training_errors():
    # a, b and the full stop: each alone and within a word, and three special ids.
    with pytest.raises(ValueError, match="`vocabulary_size` must be at least 9 .*_size=8"):
        data.train_word_piece_preprocessor(["a b."], 8)
    assert data.train_word_piece_preprocessor(["a b."], 9).vocabulary_size == 9
    with pytest.raises(ValueError, match="positive integer. Received: vocabulary_size=0"):
        data.train_word_piece_preprocessor(["a b."], 0)
    with pytest.raises(ValueError, match="`sentences` must hold at least one sentence.*none"):
        data.train_word_piece_preprocessor([" "], 300)
