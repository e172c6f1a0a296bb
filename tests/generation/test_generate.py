import numpy as np
import pytest
from keras import ops

from keras_multimodel.data.preprocessing.text import train_text_preprocessor
from keras_multimodel.generation import BeamSearch
from keras_multimodel.generation.inputs import RawBatcher
from keras_multimodel.layers import TextModality
from tests.generation.writers import INPUTS, NO_END, SENTENCES, NoEnd, build, build_ids

WRITERS = ("text", "parse", "caption", "speech")


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def ids_model():
    return build_ids()


@pytest.mark.parametrize(
    "task", ["text", *(pytest.param(t, marks=pytest.mark.slow) for t in WRITERS if t != "text")]
)
def test_cached_equals_recomputed_and_rows_stand_alone(model, task):
    inputs = INPUTS[task]
    cached = model.generate(task, inputs)
    assert cached == model.generate(task, inputs, use_cache=False)
    assert [cached[1]] == model.generate(task, inputs[1:2])
    assert len(cached.ended) == len(inputs) and cached.hypotheses is None


def test_trees_are_well_formed(model):
    for tree, sentence in zip(model.generate("parse", INPUTS["parse"]), INPUTS["parse"]):
        words = tree.replace("(", " ( ").replace(")", " ) ").split()
        assert [w for w, after in zip(words, words[1:]) if after == ")" and w != ")"] == (
            sentence.split()
        )
    with pytest.raises(ValueError, match="`max_length` must be at least 9 for inputs.2.*=8"):
        model.generate("parse", INPUTS["parse"], max_length=8)
    free = model.generate("parse", INPUTS["parse"], constraint=None)
    assert len(free) == 3


def test_classes(model):
    labels = model.generate("digits", INPUTS["digits"])
    assert set(labels) <= {"zero", "one", "two"} and labels.ended == [True] * 3
    scores = [model.score("digits", INPUTS["digits"][:1], [x])[0] for x in ("zero", "one", "two")]
    assert np.isclose(np.exp(scores).sum(), 1, atol=1e-5)
    assert ["zero", "one", "two"][int(np.argmax(scores))] == labels[0]
    assert list(model.generate("digits", INPUTS["digits"], stream=True)) == [list(labels)]


@pytest.mark.parametrize("task", ["text", "parse"])
def test_a_stream_adds_up_to_the_whole(model, task):
    whole = model.generate(task, INPUTS[task])
    pieces = list(model.generate(task, INPUTS[task], stream=True))
    joined = ["".join(step[i] or "" for step in pieces) for i in range(len(whole))]
    assert joined == whole
    if task == "text":
        assert len(pieces) > 2


@pytest.mark.slow
def test_one_trace_for_a_bucket_and_few_for_all_others(ids_model):
    def traces(lengths, max_length):
        ids_model.generate("copy", [np.full(n, 3) for n in lengths], max_length=max_length)
        return ids_model._generator("copy").traces

    first = traces([5, 8], 6)
    assert traces([5, 8], 6) == first
    assert traces([1, 7], 16) == first  # two rows, up to 8 ids in, up to 16 out
    assert traces([9, 7], 16) == first + 3  # the graphs of any length
    assert traces([20, 3, 4], 16) == first + 6  # of any number of rows, too
    for lengths in ([9, 16], [1], [33] * 5, [9, 70, 2]):
        assert traces(lengths, 9) == first + 6


def test_max_length_without_an_end_is_marked(ids_model):
    inputs = [np.array([3, 4, 5]), np.array([7, 1])]

    outputs = ids_model.generate("copy", inputs, max_length=4, constraint=NO_END)
    assert outputs.ended == [False, False] and [len(x) for x in outputs] == [4, 4]

    class OnlyEnd(NoEnd):
        def allowed(self, state, remaining):
            return ops.arange(9)[None] == 1

    outputs = ids_model.generate("copy", inputs, max_length=4, constraint=OnlyEnd())
    assert outputs.ended == [True, True] and [list(x) for x in outputs] == [[1], [1]]


def test_more_inputs_than_one_batch_holds(ids_model):
    inputs = [np.array([3 + i % 5, 4, 1]) for i in range(70)]
    outputs = ids_model.generate("copy", inputs, max_length=3)
    assert len(outputs) == 70
    for i, output in enumerate(outputs):
        np.testing.assert_array_equal(output, outputs[i % 5])


def test_scores_are_those_of_the_whole_model(ids_model):
    inputs, target = [np.array([3, 4, 5])], np.array([2, 6, 1])
    batch = {"copy": {"inputs": inputs[0][None], "targets": target[None]}}
    logits = ops.convert_to_numpy(ids_model(batch)["copy"])[0].astype("float64")
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    (score,) = ids_model.score("copy", inputs, [target])
    assert np.isclose(score, log_probability[np.arange(3), target].sum(), rtol=1e-4)


def test_functions_that_run_eagerly_write_and_score_the_same(ids_model, request):
    """As `tf.config.run_functions_eagerly` has them, for debugging."""
    inputs = [np.array([3, 4, 5, 1]), np.array([7, 1])]

    def found():
        texts = [text.tolist() for text in ids_model.generate("copy", inputs, max_length=4)]
        return texts, ids_model.score("copy", inputs, inputs)

    texts, scores = found()
    request.getfixturevalue("eagerly")
    again, same = found()
    assert again == texts
    np.testing.assert_allclose(same, scores, rtol=1e-5)


def test_generation_changes_no_weight(ids_model):
    before = [ops.convert_to_numpy(v).copy() for v in ids_model.variables]
    ids_model.generate("copy", [np.array([3, 4, 1])], max_length=3)
    for value, variable in zip(before, ids_model.variables):
        np.testing.assert_array_equal(value, ops.convert_to_numpy(variable))


LONG = np.full(9, 3)


@pytest.mark.parametrize(
    "task, inputs, arguments, message",
    [
        ("other", ["a"], {}, "`task` must be one of .* Received: task='other'"),
        ("text", [], {}, r"`inputs` must hold at least one example. Received: \[\]"),
        ("text", {"a text"}, {}, "`inputs` must be a list of raw examples. Received: set"),
        ("text", ["a", " "], {}, r"`inputs` must not be empty. Received: inputs\[1\]=' '"),
        ("text", [3], {}, r"`inputs\[0\]` must be a raw example as task 'text' takes it: .*raw=3"),
        ("text", ["a"], {"sampler": "best"}, "`sampler` must be one of .* sampler='best'"),
        ("text", ["a"], {"max_length": 0}, "`max_length` must be a positive.* max_length=0"),
        ("text", ["a"], {"max_length": 2.0}, "`max_length` must be a positive.* max_length=2.0"),
        ("text", ["a"], {"seed": [1, 2]}, r"`seed` must be .* Received: seed=\[1, 2\]"),
        ("text", ["a"], {"constraint": 3}, "`constraint` must be a Constraint.*constraint=3"),
        ("text", ["a"], {"sampler": "beam", "stream": True}, "`sampler` must not be a beam search"),
    ],
)
def test_bad_input(model, task, inputs, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.generate(task, inputs, **arguments)


def test_an_input_beyond_the_limit():
    model = build_ids()
    model.tasks["copy"].max_input_length = 8
    with pytest.raises(ValueError, match=r"at most 8 positions. Received: inputs\[1\] of length 9"):
        model.generate("copy", [LONG[:8], LONG])


def test_what_the_preprocessor_cuts_is_cut_with_a_warning():
    words = train_text_preprocessor(SENTENCES, 40, "char", max_length=6, byte_fallback=False)
    encoder = RawBatcher("text", "inputs", TextModality(40, 16, preprocessor=words), None)
    with pytest.warns(UserWarning, match=r"`inputs\[1\]` has \d+ positions and is cut to 6"):
        short, long = encoder(["the", "the file opens"])
    assert len(short) <= 6 and len(long) == 6 and long[-1] == 1
    with pytest.raises(ValueError, match=r"at most 8 positions. Received: inputs\[0\]"):
        RawBatcher("text", "inputs", encoder.net, 8)(["the file opens"])


def test_scores_need_a_target_for_each_input(ids_model):
    with pytest.raises(ValueError, match="`targets` must be as many .* 1 targets, 2 inputs"):
        ids_model.score("copy", [LONG, LONG], [LONG])


def test_beams_end_where_nothing_else_is_possible(ids_model):
    outputs = ids_model.generate("copy", [LONG], BeamSearch(3), max_length=1)
    assert len(outputs.hypotheses[0]) == 3 and all(
        len(h.output) == 1 for h in outputs.hypotheses[0]
    )
