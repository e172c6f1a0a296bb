"""Bad examples among hundreds of good ones: raised with their place, or skipped and counted."""

import io
import warnings

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from keras_multimodel import data, datasets
from tests.data.encoding.examples import TEXT, dataset, make_task, skip_bad

GOOD = 300
PLACES = (0, 130, 131, 260, 304)  # of the bad ones: both ends, side by side, in each window of 128


def planted(good, bad):
    """The values of `good` in turn, with `bad` at `PLACES`."""
    values = [good[index % len(good)] for index in range(GOOD)]
    for place in PLACES:
        values.insert(place, bad)
    return values


def flac(samples):
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format="FLAC")
    return file.getvalue()


def wav(samples):
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format="WAV", subtype="FLOAT")
    return file.getvalue()


NOISE = np.random.default_rng(0).normal(size=(3, 400)) / 10
SOUNDS = [flac(noise) for noise in NOISE]
JPEG = [tf.io.encode_jpeg(tf.fill([8, 8, 3], tf.cast(n, tf.uint8))).numpy() for n in (9, 99)]
IMAGE = data.ImagePreprocessor((8, 8))
MEL = data.AudioPreprocessor(num_mel_bins=4, frame_step=20)
WAVE = data.WaveformPreprocessor()
CLASSES = data.CategoryPreprocessor(["cat", "dog"])
TREES = data.train_tree_preprocessor(["(S (NP (DT a)))"])
LETTERS = data.train_text_preprocessor(["abc"], 64, "char", max_length=5, byte_fallback=False)
FLIPPED = bytearray(SOUNDS[0])
FLIPPED[200:220] = bytes(byte ^ 0xFF for byte in FLIPPED[200:220])

CASES = {
    "cut JPEG": (JPEG, JPEG[0][:200], IMAGE, "broken image"),
    "no image": (JPEG, b"", IMAGE, "broken image"),
    "cut FLAC": (SOUNDS, SOUNDS[0][:200], MEL, "broken audio"),
    "flipped bits in FLAC": (SOUNDS, bytes(FLIPPED), WAVE, "broken audio"),
    "zeros": (SOUNDS, flac(np.zeros(400)), MEL, "silent audio"),
    "constant": (SOUNDS, flac(np.full(400, 0.5)), WAVE, "silent audio"),
    "resampled constant": (
        SOUNDS,
        wav(np.full(400, 0.5)),
        data.WaveformPreprocessor(16000),
        "silent audio",
    ),
    "NaN": (SOUNDS, wav(np.where(np.arange(400) == 7, np.nan, 0.1)), WAVE, "not finite"),
    "infinite": (SOUNDS, wav(np.where(np.arange(400) == 7, np.inf, 0.1)), WAVE, "not finite"),
    "empty text": (["a", "word"], "", TEXT, "empty"),
    "white space": (["a", "word"], " \t ", TEXT, "empty"),
    "not UTF-8": (["a", "word"], b"\xff\xfe", TEXT, "not UTF-8"),
    "unknown class": (["cat", "dog"], "cow", CLASSES, "not a class"),
    "negative class": ([0, 1], -1, CLASSES, "not a class"),
    "open tree": (["(S (NP (DT a)))"], "(S (NP (DT a))", TREES, "broken tree"),
    "not a tree": (["(S (NP (DT a)))"], "", TREES, "broken tree"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_example_among_good_ones(case):
    good, bad, preprocessor, reason = CASES[case]
    values = planted(good, bad)
    task = make_task(preprocessor, None)
    labels = np.arange(len(values))
    sources = [f"file.tsv:{label + 1}" for label in labels]
    examples = dataset(values, labels, source=sources)

    report = data.BadExamples()
    skipping = data.encode(examples, task, on_bad="skip", report=report)
    with pytest.warns(UserWarning, match=rf"skipped:\n.*\n{reason} +5 +file.tsv:1\n"):
        first = [int(example["targets"]) for example in skipping.as_numpy_iterator()]
    assert first == [label for label in labels if label not in PLACES]
    assert report.counts == {reason: len(PLACES)}
    assert [e.place for e in report.examples] == [sources[place] for place in PLACES]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a second pass finds nothing new
        assert sum(1 for _ in skipping.skip(290)) == 10
    assert len(report) == len(PLACES)

    strict = data.encode(examples.skip(1), task)
    assert strict.cardinality() == GOOD + 4
    seen = []
    with pytest.raises(tf.errors.OpError, match=rf"file.tsv:131: {reason}"):
        seen.extend(int(e["targets"]) for e in strict.as_numpy_iterator())


def test_missing_columns_and_long_examples_among_good_ones(tmp_path):
    path = tmp_path / "pairs.tsv"
    short, long = "\n".join(planted(["a\tb"], "a")), "\n".join(planted(["a\tb"], f"{'a' * 9}\tb"))
    five = data.TextPreprocessor(LETTERS.proto, max_length=5)
    for text, reason in ((short, "missing column"), (long, "too long")):
        path.write_text(text)
        task, pairs = make_task(five, five), datasets.tsv_pairs(path)
        kept, report = skip_bad(pairs, task, on_long="bad")
        assert len(kept) == GOOD
        assert report.counts == {reason: len(PLACES)}
        assert [e.place for e in report.examples] == [f"{path}:{place + 1}" for place in PLACES]
        strict = data.encode(pairs.skip(1), task, on_long="bad")
        with pytest.raises(tf.errors.OpError, match=rf"pairs.tsv:131: {reason}"):
            list(strict)


def test_good_examples_are_what_their_preprocessors_make():
    task = make_task(MEL, LETTERS)
    examples = dataset(planted(SOUNDS, b"?"), ["abcabc"] * (GOOD + len(PLACES)))
    encoded, _ = skip_bad(examples, task)
    assert len(encoded) == GOOD
    for index in (0, 1, 2, 298):
        np.testing.assert_allclose(encoded[index]["inputs"], MEL(SOUNDS[index % 3]), rtol=1e-5)
        np.testing.assert_array_equal(encoded[index]["targets"], LETTERS("abcabc"))


def test_cache_keeps_the_good_ones():
    report = data.BadExamples()
    examples = dataset(["a", "", "b"], [0, 1, 2])
    cached = data.encode(examples, make_task(TEXT, None), cache=True, on_bad="skip", report=report)
    with pytest.warns(UserWarning):
        passes = [[int(e["targets"]) for e in cached] for _ in range(3)]
    assert passes == [[0, 2]] * 3
    assert report.counts == {"empty": 1}


def test_problem_of_the_reader():
    examples = dataset(["a", ""], [0, 1], problem=["", "missing column: 2 columns. Received: 1"])
    (good,), report = skip_bad(examples, make_task(TEXT, None))
    assert sorted(good) == ["inputs", "targets"]
    assert report.examples[0][1:3] == ("missing column", "2 columns. Received: 1")


@pytest.mark.parametrize("max_length", [6, None])
def test_too_long(max_length):
    letters = data.TextPreprocessor(LETTERS.proto, max_length=max_length)
    task = make_task(letters, letters)
    examples = dataset(["abc", "abca", "abcab", "abc"], ["abc", "abc", "abc", "c" * 64])
    longest = [len(e["inputs"]) for e in data.encode(examples, task)]
    assert longest == ([5, 6, 6, 5] if max_length else [5, 6, 7, 5])
    task.max_input_length = None if max_length else 6
    kept, report = skip_bad(examples, task, on_long="bad")
    assert [len(e["inputs"]) for e in kept] == [5, 6]
    assert report.counts == {"too long": 2}
    limit = max_length or 64
    assert report.examples[1].message.endswith(f"most {limit} positions. Received: length=66")


@pytest.mark.parametrize(
    "value,nets,reason",
    [
        (np.int64(3), {"num_ids": 3}, "not a class"),
        (np.array([4, 9, 1]), {"num_ids": 9}, "not in the vocabulary"),
        (np.array([1, 0, 0]), {}, "empty"),
        (np.zeros(3, "float32"), {}, "empty"),
        (np.array([[np.nan]], "float32"), {}, "not finite"),
    ],
)
def test_arrays_without_a_preprocessor(value, nets, reason):
    examples = dataset(np.stack([np.full_like(value, 2), value]), [0, 1])
    kept, report = skip_bad(examples, make_task(None, None, inputs=nets))
    assert len(kept) == 1
    assert report.counts == {reason: 1}


@pytest.mark.parametrize("attribute", ["vocabulary_size", "num_classes"])
def test_integers_of_a_net_that_has_no_ids_are_not_checked(attribute):
    """Only `num_ids` says that values are ids, whatever else a net of the user's is called."""
    values = np.array([[7, -3], [1, 2]])
    task = make_task(None, None, inputs={attribute: 3}, targets={attribute: 3})
    for inputs, targets in ((values, [0, 9]), ([-5, 4], values)):
        assert len(list(data.encode(dataset(inputs, targets), task))) == 2


@pytest.mark.parametrize("on_long", ["cut", "bad"])
def test_a_plain_function_as_preprocessor(on_long):
    task = make_task(lambda raw: tf.strings.to_number(tf.strings.split(raw), "int32"), None)
    kept, report = skip_bad(dataset(["3 4", "x", "5"], [0, 1, 2]), task, on_long=on_long)
    assert [list(example["inputs"].numpy()) for example in kept] == [[3, 4], [5]]
    assert report.counts == {"preprocessor failed": 1}


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (0, 5, 3)])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("side", ["inputs", "targets"])
def test_a_length_of_0_is_bad(shape, dtype, side):
    good = np.full([size or 2 for size in shape], 3)
    other = {"inputs": "targets", "targets": "inputs"}[side]

    def example(is_bad):
        value = tf.cond(is_bad, lambda: tf.zeros(shape, dtype), lambda: tf.cast(good, dtype))
        value = tf.ensure_shape(value, [None if size == 0 else size for size in shape])
        return {side: value, other: tf.constant(1)}

    examples = tf.data.Dataset.from_tensor_slices([False, True, False]).map(example)
    kept, report = skip_bad(examples, make_task(None, None))
    assert len(kept) == 2 and report.counts == {"empty": 1}
    assert f"`{side}` must not have a length of 0. Received: shape={shape}" == (
        report.examples[0].message
    )


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            {"on_bad": "ignore"},
            "`on_bad` must be one of 'raise', 'skip'. Received: on_bad='ignore'",
        ),
        ({"on_long": "keep"}, "`on_long` must be one of 'cut', 'bad'. Received: on_long='keep'"),
        ({"task": "digits"}, "`task` must be a `kmm.Task`. Received: task='digits'"),
        ({"report": 3}, "`report` must be a BadExamples or None. Received: report=3"),
    ],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.encode(dataset(["a"], [0]), **{"task": make_task(TEXT, None), **arguments})


def test_arrays_of_a_shape_that_the_graph_does_not_know():
    class Lengths(data.Preprocessor):
        def __call__(self, raw):
            return tf.numpy_function(lambda n: np.ones(n, "float32"), [raw], tf.float32)

    examples = dataset([2, 0, 3], [0, 1, 2])
    kept, report = skip_bad(examples, make_task(Lengths(), None), on_long="bad")
    assert [len(example["inputs"]) for example in kept] == [2, 3] and report.counts == {"empty": 1}


def test_ragged_and_sparse_examples_are_refused():
    ragged = tf.ragged.constant([["a"], ["b", "c"]])
    sparse = tf.sparse.from_dense([[1, 0], [0, 1]])
    for inputs, received in ((ragged, "inputs=RaggedTensorSpec"), (sparse, "inputs=SparseTensor")):
        with pytest.raises(ValueError, match=f"`dataset` must hold dense tensors.*{received}"):
            data.encode(dataset(inputs, [0, 1]), make_task(None, None))


def test_other_keys_are_refused():
    with pytest.raises(ValueError, match="`dataset` must have elements with the keys"):
        data.encode(dataset(["a"], [0], weight=[1]), make_task(TEXT, None))
