import json

import keras
import nltk
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data, datasets
from keras_multimodel.data.preprocessing.trees import delinearize, linearize, repair

TREE = "(S (NP (DT The) (NN file)) (VP (VBZ opens)) (. .))"
SYMBOLS = "(S (NP DT NN )NP (VP VBZ )VP . )S".split()
WORDS = "The file opens .".split()

names = st.text(
    st.characters(categories=("L", "N", "P", "S"), exclude_characters="()"), min_size=1, max_size=4
)
labels = st.sampled_from(["", "S", "NP", "VP", "NP-SBJ", "WH|X", "PRP$", "S=2"]) | names
tags = st.sampled_from(["NN", "S", ",", ".", "``", "-LRB-", "-NONE-", "$", "#", ":"]) | names
words = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=6).filter(
    lambda word: word == "".join(word.split())
)


def bracket(tag, word):
    # nltk takes "\\)" for an escaped bracket.
    space = " " if word.endswith("\\") else ""
    return f"({tag} {word.replace('(', '-LRB-').replace(')', '-RRB-')}{space})"


trees = st.recursive(
    st.builds(bracket, tags, words),
    lambda inner: st.builds(
        lambda label, children: f"({label} {' '.join(children)})",
        labels,
        st.lists(inner, min_size=1, max_size=4),
    ),
    max_leaves=12,
)


def reference_symbols(tree):
    """The same form from nltk's tree."""
    if isinstance(tree[0], str):
        return [tree.label()]
    inner = [symbol for child in tree for symbol in reference_symbols(child)]
    return [f"({tree.label()}", *inner, f"){tree.label()}"]


def test_the_form_of_vinyals():
    assert linearize(TREE) == SYMBOLS
    assert delinearize(SYMBOLS, WORDS) == TREE


@settings(max_examples=400, deadline=None)
@given(trees)
def test_random_trees_survive(tree):
    parsed = nltk.Tree.fromstring(tree)
    symbols = linearize(tree)
    assert symbols == reference_symbols(parsed)
    assert delinearize(symbols, parsed.leaves()) == tree
    assert repair(symbols, parsed.leaves()) == symbols
    preprocessor = data.train_tree_preprocessor([tree])
    assert preprocessor.decode(preprocessor(tree), " ".join(parsed.leaves())) == tree


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_shipped_tree_survives(split):
    examples = list(datasets.load("parse", split).as_numpy_iterator())
    preprocessor = data.train_tree_preprocessor(example["targets"] for example in examples)
    for example in examples:
        tree, sentence = example["targets"].decode(), example["inputs"].decode()
        symbols = linearize(tree)
        assert symbols == reference_symbols(nltk.Tree.fromstring(tree))
        assert delinearize(symbols, sentence.split()) == tree
        assert preprocessor.decode(preprocessor(tree), sentence) == tree


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["(S", "(NP", ")S", ")NP", "(VP", ")VP", "NN", "DT"]), max_size=20),
    st.lists(words, min_size=1, max_size=8),
)
def test_any_symbols_can_be_repaired(symbols, sentence):
    repaired = repair(symbols, sentence)
    tree = nltk.Tree.fromstring(delinearize(repaired, sentence))
    assert tree.leaves() == [w.replace("(", "-LRB-").replace(")", "-RRB-") for w in sentence]
    assert repair(repaired, sentence) == repaired


@pytest.mark.parametrize(
    "symbols,repaired",
    [
        ("(S (NP NN )VP NN", "(S (NP NN NN )NP )S"),  # unmatched closer, two open phrases
        ("(S (NP NN (VP NN )S", "(S (NP NN (VP NN )VP )NP )S"),  # closing an outer phrase
        ("(S (NP )NP NN NN NN )S", "(S NN NN )S"),  # empty phrase, surplus tag
        ("(S NN )S", "(S NN XX )S"),  # missing word
        ("", "(S XX XX )S"),
        ("NN NN", "(S NN NN )S"),  # no root
        ("(NP NN )NP (VP VB )VP", "(S (NP NN )NP (VP VB )VP )S"),  # two roots
    ],
)
def test_repairs(symbols, repaired):
    assert " ".join(repair(symbols.split(), ["a", "b"])) == repaired


def test_penn_treebank_top_and_layout():
    tree = "( (S\n    (NP-SBJ (-NONE- *) )\n    (VP (VB Save) )))"
    symbols = linearize(tree)
    assert symbols == ["(", "(S", "(NP-SBJ", "-NONE-", ")NP-SBJ", "(VP", "VB", ")VP", ")S", ")"]
    assert delinearize(symbols, ["*", "Save"]) == "( (S (NP-SBJ (-NONE- *)) (VP (VB Save))))"


@pytest.mark.parametrize(
    "tree,message",
    [
        ("(S (NP (DT The)", "must close all phrases, 2 are open.*tree='"),
        ("", "must close all phrases, 0 are open"),
        ("(S (DT The)) (S (DT a))", r"must end with its root, but '\(' follows"),
        ("(S (DT The)))", r"must end with its root, but '\)' follows"),
        (")", "must open a phrase before"),
        ("(S (NP ) (DT The))", r"must have no empty phrase '\(NP'"),
        ("(S (DT The) file)", "a tag for each word, 'file' has none"),
        ("(S (DT The file))", "a tag for each word, 'The' has none"),
        ("The", "a tag for each word, 'The' has none"),
    ],
)
def test_linearize_errors(tree, message):
    with pytest.raises(ValueError, match=f"`tree` .*{message}"):
        linearize(tree)


@pytest.mark.parametrize(
    "symbols,message",
    [
        ("(S NN", "must close all phrases, 1 are open. Received: symbols=.S NN"),
        ("", "must close all phrases, 0 are open"),
        ("(S NN )NP", r"must open a phrase that '\)NP' closes"),
        ("(S NN )S NN", "must end with the root, but 'NN' follows"),
        (")S", r"must open a phrase that '\)S' closes"),
        ("(S )S", r"must have no empty phrase '\(S'"),
        ("(S NN NN )S", "must have a tag for each of 1 words, not 2"),
    ],
)
def test_delinearize_errors(symbols, message):
    with pytest.raises(ValueError, match=f"`symbols` .*{message}"):
        delinearize(symbols.split(), ["file"])


def test_too_few_tags_is_an_error():
    with pytest.raises(ValueError, match="tag for each of 2 words, not 1"):
        delinearize(["NN"], ["a", "b"])


def test_repair_of_endless_opening():
    repaired = repair(["(NP"] * 5000 + ["NN"], ["file"])
    assert nltk.Tree.fromstring(delinearize(repaired, ["file"])).height() == 202


def test_repair_needs_a_word():
    with pytest.raises(ValueError, match=r"`words` must hold at least one word. .*words=\[\]"):
        repair(["NN"], [])


def test_ids_and_their_order():
    preprocessor = data.train_tree_preprocessor([TREE, b"(S (NN file))"])
    # Counts: "(S", ")S", "NN" 2, all others 1; ties by code point.
    assert preprocessor.symbols[:3] == ["(S", ")S", "NN"]
    assert preprocessor.vocabulary_size == 3 + len(set(SYMBOLS))
    assert preprocessor("(S (NN a))").numpy().tolist() == [3, 5, 4, 1]
    assert preprocessor("(S (XX a))").numpy().tolist() == [3, 2, 4, 1]


def test_inside_tf_data():
    preprocessor = data.train_tree_preprocessor([TREE])
    dataset = tf.data.Dataset.from_tensors(TREE).map(preprocessor)
    assert dataset.element_spec == tf.TensorSpec((None,), tf.int32)
    np.testing.assert_array_equal(next(iter(dataset)), preprocessor(TREE))
    bad = tf.data.Dataset.from_tensors("(S (DT The)").map(preprocessor)
    with pytest.raises(tf.errors.OpError, match="must close all phrases"):
        next(iter(bad))


def test_max_length_keeps_the_end():
    preprocessor = data.TreePreprocessor(linearize("(S (NN a))"), max_length=3)
    assert preprocessor("(S (NN a))").numpy().tolist() == [3, 4, 1]


def test_decode_repairs_and_escapes():
    preprocessor = data.train_tree_preprocessor([TREE])
    ids = preprocessor(TREE).numpy()[:-3]
    decoded = preprocessor.decode([*ids, 2, 1, 9, 0], inputs=b"The ( x )")
    assert nltk.Tree.fromstring(decoded).leaves() == ["The", "-LRB-", "x", "-RRB-"]


def test_preprocessor_errors():
    preprocessor = data.train_tree_preprocessor([TREE])
    with pytest.raises(ValueError, match="`inputs` must be the sentence.*inputs=None"):
        preprocessor.decode([3, 1])
    with pytest.raises(ValueError, match=r"`prediction` must hold ids from 0 to 12.*\[99\]"):
        preprocessor.decode([99], "The")
    with pytest.raises(ValueError, match="`symbols` must be a list .*symbols='S'"):
        data.TreePreprocessor("S")
    with pytest.raises(ValueError, match="`symbols` must hold at least one.*symbols="):
        data.TreePreprocessor([])
    with pytest.raises(ValueError, match="none twice.*'NN', 'NN'"):
        data.TreePreprocessor(["NN", "NN"])
    with pytest.raises(ValueError, match="`max_length` must be .*max_length=0"):
        data.TreePreprocessor(["NN"], max_length=0)
    with pytest.raises(ValueError, match="`trees` must hold at least one tree"):
        data.train_tree_preprocessor([])
    with pytest.raises(ValueError, match="`raw` must be one string.*raw=3"):
        preprocessor(3)


def test_trained_on_a_data_set_and_saved():
    trees = datasets.load("parse").map(lambda example: example["targets"])
    preprocessor = data.train_tree_preprocessor(trees, max_length=90)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(preprocessor)))
    loaded = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert loaded == preprocessor and loaded.symbols == preprocessor.symbols
    assert loaded.max_length == 90
