import collections
import sys

import jiwer
import nltk
import numpy as np
import pytest
import sacrebleu
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_multimodel as kmm
from keras_multimodel.evaluation import bracket_f1, error_rates, evaluate, text_measures

LABELS = st.sampled_from(["S", "NP", "VP", "PP", ""])


@st.composite
def trees(draw, words=(1, 6)):
    """Returns a random tree in brackets over a number of words."""
    count = draw(st.integers(*words))

    def node(start, end, depth):
        if depth and (end - start == 1 and draw(st.booleans())):
            return f"(T w{start})"
        cuts = sorted(draw(st.sets(st.integers(start + 1, end - 1)))) if end - start > 1 else []
        bounds = [start, *cuts, end]
        inner = [
            node(a, b, depth + 1) if depth < 4 else " ".join(f"(T w{i})" for i in range(a, b))
            for a, b in zip(bounds, bounds[1:])
        ]
        return f"({draw(LABELS)} {' '.join(inner)})"

    return node(0, count, 0)


def nltk_brackets(text):
    """Counts the brackets of a tree as nltk reads it."""
    tree = nltk.Tree.fromstring(text)
    for number, position in enumerate(tree.treepositions("leaves")):
        tree[position] = number
    spans = [(t.label(), min(t.leaves()), max(t.leaves()) + 1) for t in tree.subtrees()]
    tags = [(t.label(), t[0], t[0] + 1) for t in tree.subtrees(lambda t: t.height() == 2)]
    counts = collections.Counter(spans) - collections.Counter(tags)
    return +collections.Counter({k: n for k, n in counts.items() if k[0]})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(trees(), trees()), min_size=1, max_size=4))
def test_bracket_f1_equals_that_of_trees_of_nltk(pairs):
    equal = total = 0
    for pair in pairs:
        one, two = map(nltk_brackets, pair)
        equal += sum((one & two).values())
        total += sum(one.values()) + sum(two.values())
    expected = 2 * equal / total if total else 0.0
    assert bracket_f1(*zip(*pairs)) == pytest.approx(expected)


def test_bracket_f1_of_a_known_pair():
    right = "(S (NP (DT The) (NN file)) (VP (VBZ opens)))"
    flat = "(S (DT The) (NN file) (VP (VBZ opens)))"
    assert bracket_f1([flat], [right]) == pytest.approx(0.8)
    assert bracket_f1([right], [right]) == 1.0
    with pytest.raises(ValueError, match="must"):
        bracket_f1(["(S (NP"], [right])


def test_texts_are_measured_as_by_the_libraries():
    written = ["open the file .", "save all of it", "close"]
    right = ["open the file .", "save all files now", "close the window"]
    found = text_measures(written, right)
    assert found["bleu"] == sacrebleu.BLEU().corpus_score(written, [right]).score
    assert found["chrf"] == sacrebleu.CHRF().corpus_score(written, [right]).score
    assert found["exact"] == pytest.approx(1 / 3)
    rates = error_rates(written, right)
    assert rates["wer"] == pytest.approx(jiwer.process_words(right, written).wer)
    # By hand: "opens" for "open" is one of four characters.
    assert error_rates(["opens"], ["open"]) == {"cer": 0.25, "wer": 1.0}
    with pytest.raises(ValueError, match="`written` must have one text"):
        text_measures(["a"], [])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ModuleNotFoundError, match=r"sacrebleu is needed .*\[evaluation\]"):
        text_measures(["a"], ["a"])


@pytest.fixture(scope="module")
def model():
    texts = ["one", "two", "three"]
    text = kmm.data.train_text_preprocessor(texts, 64, model_type="char", byte_fallback=False)
    trees = kmm.data.train_tree_preprocessor(["(S (NP (DT one)) (VP (VB two)))"])
    kinds = kmm.data.CategoryPreprocessor(["a", "b"])
    sound = kmm.data.AudioPreprocessor(num_mel_bins=24)
    words = kmm.layers.TextModality(text.vocabulary_size, 16, preprocessor=text)
    symbols = kmm.layers.TextModality(trees.vocabulary_size, 16, preprocessor=trees)
    classes = kmm.layers.CategoryModality(2, 16, preprocessor=kinds)
    audio = kmm.layers.AudioModality(
        16, num_bins=24, num_blocks=1, channels=(16,), stem_channels=4, preprocessor=sound
    )
    tasks = [
        kmm.Task("copy", words, words, max_target_length=8),
        kmm.Task("parse", words, symbols, max_target_length=12),
        kmm.Task("kind", words, classes),
        kmm.Task("speech", audio, words, max_target_length=8),
    ]
    blocks = {"conv_block": None, "moe": None, "num_encoder_blocks": 0, "num_decoder_blocks": 1}
    return kmm.MultiModel(tasks, 16, num_mixer_blocks=0, **blocks)


def dataset(inputs, targets):
    return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": targets})


@pytest.mark.usefixtures("eagerly")
def test_evaluate_measures_each_task_by_its_kind(model):
    text = ["one", "two", "three"]
    silence = np.random.default_rng(0).normal(size=(3, 4000)).astype("float32")
    data = {
        "copy": dataset(text, ["three", "one", "two"]),
        "parse": dataset(["one two", "two"], ["(S (NP (DT one)) (VP (VB two)))", "(S (VB two))"]),
        "kind": dataset(text, ["a", "b", "a"]),
        "speech": dataset(silence, text),
    }
    found = evaluate(model, data, batch_size=2)
    common = ["log_perplexity", "accuracy"]
    assert {name: [*measures] for name, measures in found.items()} == {
        "copy": [*common, "bleu", "chrf", "exact"],
        "parse": [*common, "bracket_f1"],
        "kind": common,
        "speech": [*common, "cer", "wer"],
    }
    # Against what is computed without batches: one example at a time, from its probability.
    pairs = list(zip(text, ["three", "one", "two"]))
    scores = [float(model.score("copy", [x], [y])[0]) for x, y in pairs]
    ids = sum(len(model.tasks["copy"].targets.preprocessor(y)) for _, y in pairs)
    assert found["copy"]["log_perplexity"] == pytest.approx(-sum(scores) / ids, abs=1e-4)
    written = [model.generate("kind", [x])[0] for x in text]
    assert found["kind"]["accuracy"] == pytest.approx(np.mean(np.equal(written, ["a", "b", "a"])))
    trees = list(model.generate("parse", ["one two", "two"]))
    right = ["(S (NP (DT one)) (VP (VB two)))", "(S (VB two))"]
    assert found["parse"]["bracket_f1"] == bracket_f1(trees, right)


def test_evaluate_refuses_an_unknown_task(model):
    with pytest.raises(ValueError, match=r"`data` must have keys among \['copy'.*'other'"):
        evaluate(model, {"other": dataset(["one"], ["one"])})


@pytest.mark.usefixtures("eagerly")
def test_evaluate_reads_rows_that_have_the_target():
    """The measures are those of the same rows, encoded by `rows_to_tasks`."""
    shop = {
        "title": ["hat", "shoe", "red hat", "old shoe", "coat"],
        "kind": ["hat", "shoe", "hat", "", None],
        "price": [9.0, float("nan"), 7.0, 8.0, None],
    }
    rows = kmm.data.table(shop, {"title": "text", "kind": "category", "price": "number"})
    found = rows.preprocessors()
    title = kmm.layers.TextModality(found["title"].vocabulary_size, 8, preprocessor=found["title"])
    kind = kmm.layers.CategoryModality(2, 8, preprocessor=found["kind"])
    price = kmm.layers.NumberModality(8, preprocessor=found["price"])
    tasks = [
        kmm.Task(name, {"title": title}, net) for name, net in (("kind", kind), ("price", price))
    ]
    blocks = {"conv_block": None, "moe": None, "num_encoder_blocks": 0, "num_decoder_blocks": 1}
    model = kmm.MultiModel(tasks, 8, num_mixer_blocks=0, **blocks)
    both = rows.dataset("title", ["kind", "price"])
    measured = evaluate(model, {"kind": rows.dataset("title", "kind"), "price": both})
    for task in tasks:
        single = model.task_model(task.name)
        single.compile()
        encoded = kmm.data.rows_to_tasks(rows, task)[task.name]
        logs = single.evaluate(kmm.data.batch(encoded, task.name, 8), verbose=0, return_dict=True)
        assert measured[task.name]
        for name, value in measured[task.name].items():
            assert value == pytest.approx(logs[name], rel=1e-5), name
    with pytest.raises(ValueError, match=r"target 'kind' for the task .*\['title', 'price'\]"):
        evaluate(model, {"kind": rows.dataset("title", ["title", "price"])})
