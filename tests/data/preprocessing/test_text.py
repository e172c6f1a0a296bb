import base64
import unicodedata
from pathlib import Path

import keras
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data, datasets

SENTENCES = [
    "Save the file.",
    "Open the file with the editor.",
    "Speichern Sie die Datei für später.",
    "Où est le fichier ?",
    "Choose the printer that you want to use, then press the green button.",
    "Drücken Sie die Taste, um den Bildschirm zu sperren.",
]


@pytest.fixture(scope="module")
def text():
    return data.train_text_preprocessor(SENTENCES, 300)


def test_ids_are_those_of_sentencepiece_and_an_end(text):
    reference = sentencepiece.SentencePieceProcessor(model_proto=text.proto)
    for sentence in SENTENCES + ["etwas anderes: 日本", ""]:
        ids = text(sentence)
        assert ids.dtype == tf.int32
        assert ids.numpy().tolist() == [*reference.encode(sentence), 1]


def test_special_ids(text):
    reference = sentencepiece.SentencePieceProcessor(model_proto=text.proto)
    assert [reference.id_to_piece(i) for i in range(3)] == ["<pad>", "</s>", "<unk>"]
    assert text.vocabulary_size == 300 == reference.vocab_size()


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x24F, categories=("L", "N"))))
def test_no_character_is_lost_with_byte_fallback(text, sentence):
    ids = text(sentence).numpy()
    assert 2 not in ids
    assert text.decode(ids) == unicodedata.normalize("NFKC", sentence)


def test_shipped_held_out_text_survives():
    sentences = datasets.load("en_de").take(2500).map(lambda example: example["targets"])
    text = data.train_text_preprocessor(sentences, 1000)
    for example in datasets.load("en_de", "test").take(300).as_numpy_iterator():
        ids = text(example["targets"]).numpy()
        assert 2 not in ids
        normal = " ".join(example["targets"].decode().replace("…", "...").split())
        assert text.decode(ids) == normal


def test_without_byte_fallback_new_characters_are_unknown():
    text = data.train_text_preprocessor(SENTENCES, 50, byte_fallback=False)
    assert 2 in text("Save 日").numpy()
    assert text.vocabulary_size == 50


def test_characters():
    text = data.train_text_preprocessor(["a bc", "cab"], 100, "char", byte_fallback=False)
    # pad, end, unknown, the space, a, b, c: 100 is the most, not the exact size.
    assert text.vocabulary_size == 7
    assert len(text("abc")) == 1 + 3 + 1  # a space goes before the text
    assert text.decode(text("ab c")) == "ab c"


def test_bpe():
    text = data.train_text_preprocessor(SENTENCES, 310, "bpe")
    assert text.vocabulary_size == 310
    assert text.decode(text("Save the file.")) == "Save the file."


def test_inside_tf_data(text):
    dataset = tf.data.Dataset.from_tensor_slices(SENTENCES).map(text)
    assert dataset.element_spec == tf.TensorSpec((None,), tf.int32)
    for ids, sentence in zip(dataset, SENTENCES, strict=True):
        np.testing.assert_array_equal(ids, text(sentence))


@pytest.mark.parametrize("form", [str, str.encode, np.str_, np.array, tf.constant])
def test_forms_of_a_string(text, form):
    np.testing.assert_array_equal(text(form("Où est")), text("Où est"))


def test_decode_stops_at_the_first_end_and_skips_padding(text):
    ids = text("Save the file.").numpy()
    assert text.decode([0, *ids, *ids, 0]) == "Save the file."
    assert text.decode(tf.constant(ids[:-1])) == "Save the file."
    assert text.decode([1]) == text.decode([]) == ""


def test_max_length_keeps_the_end(text):
    short = data.TextPreprocessor(text.proto, max_length=4)
    whole = text("Open the file with the editor.").numpy()
    assert short("Open the file with the editor.").numpy().tolist() == [*whole[:3], 1]
    assert short("").numpy().tolist() == [1]
    assert len(data.TextPreprocessor(text.proto, max_length=1)("Open")) == 1
    assert data.train_text_preprocessor(SENTENCES, 300, max_length=5).max_length == 5


def test_same_sentences_same_vocabulary(text):
    assert data.train_text_preprocessor(iter(SENTENCES), 300) == text
    dataset = tf.data.Dataset.from_tensor_slices(SENTENCES)
    assert data.train_text_preprocessor(dataset, 300) == text


def test_training_is_quiet(capfd):
    data.train_text_preprocessor(SENTENCES, 300)
    assert capfd.readouterr() == ("", "")


def test_proto_as_path_bytes_or_base64(text, tmp_path):
    path = tmp_path / "vocabulary.model"
    path.write_bytes(text.proto)
    for proto in (path, str(path), text.proto, base64.b64encode(text.proto).decode()):
        assert data.TextPreprocessor(proto) == text


@pytest.mark.parametrize("form", [str, Path, bytes], ids=["str", "Path", "bytes"])
def test_a_config_names_no_file_to_read(text, tmp_path, form):
    """Whoever loads a model must not have the maker of its file choose what else is read."""
    (tmp_path / "vocabulary.model").write_bytes(text.proto)
    path = tmp_path / "vocabulary.model"
    named = {"str": str(path), "Path": path, "bytes": str(path).encode()}[form.__name__]
    assert data.TextPreprocessor(path).proto == text.proto  # the user's own call may
    with pytest.raises(ValueError, match="`proto` must be a SentencePiece model"):
        data.TextPreprocessor.from_config({"proto": named, "max_length": None})
    with pytest.raises(ValueError, match="`proto` must be a SentencePiece model"):
        data.TextPreprocessor.from_config({"max_length": None})
    config = keras.saving.serialize_keras_object(text)
    config["config"]["proto"] = named
    with pytest.raises(ValueError, match="`proto` must be a SentencePiece model"):
        keras.saving.deserialize_keras_object(config)


def test_training_errors():
    with pytest.raises(ValueError, match="`sentences` must hold at least one sentence.*none"):
        data.train_text_preprocessor(["", " "], 300)
    with pytest.raises(ValueError, match="`sentences` must be several strings.*'Save'"):
        data.train_text_preprocessor("Save", 300)
    with pytest.raises(ValueError, match="`sentences` must hold strings. Received: 3"):
        data.train_text_preprocessor([3], 300)
    with pytest.raises(ValueError, match="`vocabulary_size` must be at least 29.*_size=100"):
        data.train_text_preprocessor(SENTENCES, 100)
    with pytest.raises(ValueError, match=r"must be at most \d+ for .*vocabulary_size=9000"):
        data.train_text_preprocessor(SENTENCES, 9000)
    with pytest.raises(ValueError, match="at least 4. Received: vocabulary_size=3"):
        data.train_text_preprocessor(SENTENCES, 3)
    with pytest.raises(ValueError, match="`model_type` must be one of 'unigram', .*='word'"):
        data.train_text_preprocessor(SENTENCES, 300, model_type="word")


def test_errors(text):
    with pytest.raises(ValueError, match="`proto` must be a SentencePiece model.*proto=b'nonsen"):
        data.TextPreprocessor(b"nonsense")
    with pytest.raises(ValueError, match="`proto` must be a SentencePiece model.*no-such-file"):
        data.TextPreprocessor("no-such-file")
    with pytest.raises(ValueError, match="`proto` must be a SentencePiece model.*größe.model"):
        data.TextPreprocessor("größe.model")
    with pytest.raises(ValueError, match="`max_length` must be .*max_length=0"):
        data.TextPreprocessor(text.proto, max_length=0)
    with pytest.raises(ValueError, match="`raw` must be one string.*raw=7"):
        text(7)
    with pytest.raises(ValueError, match=r"`raw` must be one string.*\['a'\]"):
        text(["a"])
    with pytest.raises(ValueError, match="`raw` must be one string"):
        text(tf.constant(["a", "b"]))
    with pytest.raises(ValueError, match=r"ids from 0 to 299. Received: prediction=\[300\]"):
        text.decode([300])
    with pytest.raises(ValueError, match=r"sequence of integer ids.*shape=\(1, 2\), dtype=int64"):
        text.decode([[3, 4]])
    with pytest.raises(ValueError, match="sequence of integer ids.*dtype=float64"):
        text.decode([0.5])


def test_other_special_ids_are_refused(tmp_path):
    prefix = str(tmp_path / "other")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=prefix, vocab_size=50, minloglevel=2
    )
    with pytest.raises(ValueError, match=r"Received: \(pad_id, eos_id, unk_id\)=\(-1, 2, 0\)"):
        data.TextPreprocessor(f"{prefix}.model")


def test_a_global_seed_leaves_the_vocabulary_alone():
    # TensorFlow then clears its kernels, and with them what they own.
    letters = data.train_text_preprocessor(["abcd dcba"] * 50, 300, model_type="char")
    dataset = tf.data.Dataset.from_tensors("abba").map(letters)
    before = letters("abba").numpy()
    keras.utils.set_random_seed(1)
    others = data.train_text_preprocessor(["zyxw wxyz"] * 50, 300, model_type="char")
    np.testing.assert_array_equal(letters("abba"), before)
    np.testing.assert_array_equal(next(iter(dataset)), before)
    assert others.decode(others("wxyz")) == "wxyz"
