"""Reports of bad examples: their place, their reason, and the warning that shows them."""

import inspect
import warnings

import pytest
import tensorflow as tf

from keras_multimodel import data
from tests.data.encoding.examples import TEXT, dataset, make_task, skip_bad


def test_number_of_the_example_where_there_is_no_source():
    examples = dataset(["a", "", "b", ""], [0, 1, 2, 3])
    report = data.BadExamples()
    for _ in range(2):
        twice = data.encode(examples, make_task(TEXT, None), on_bad="skip", report=report)
        with pytest.warns(UserWarning):
            assert [int(e["targets"]) for e in twice] == [0, 2]
    assert [e.place for e in report.examples] == ["example 1 of t", "example 3 of t"] * 2
    with pytest.raises(tf.errors.OpError, match="example 1 of t: empty"):
        list(data.encode(examples, make_task(TEXT, None)))


def test_errors_of_other_preprocessors():
    class Halve(data.Preprocessor):
        def __call__(self, raw):
            if tf.executing_eagerly() and raw < 0:
                raise ValueError(f"`raw` must not be negative. Received: raw={raw}")
            with tf.control_dependencies([tf.debugging.assert_non_negative(raw)]):
                return raw / 2

    kept, report = skip_bad(dataset([4.0, -1.0, -2.0], [0, 1, 2]), make_task(Halve(), None))
    assert len(kept) == 1
    assert report.counts == {"`raw` must not be negative.": 2}


def test_errors_of_the_data_set_itself_are_not_swallowed():
    broken = tf.data.Dataset.range(300).map(
        lambda i: {
            "inputs": tf.debugging.check_numerics(1.0 / tf.cast(i - 200, tf.float32), "!"),
            "targets": i,
        }
    )
    encoded = data.encode(broken, make_task(None, None), on_bad="skip")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Inf"):
        list(encoded)


def test_infinite_data_sets_stay_infinite():
    examples = dataset(["a", ""], [0, 1]).repeat()
    report = data.BadExamples()
    encoded = data.encode(examples, make_task(TEXT, None), on_bad="skip", report=report)
    assert encoded.cardinality() == tf.data.INFINITE_CARDINALITY
    assert len(list(encoded.take(200))) == 200
    assert report.counts["empty"] >= 199


def test_report_is_a_table():
    report = data.BadExamples()
    report.add(1, "a.tsv:17", "empty", "`inputs` must hold more")
    report.add(2, "a.tsv:3", "missing column", "")
    report.add(3, "a.tsv:20", "empty", "")
    report.add(3, "a.tsv:20", "empty", "")
    assert str(report).splitlines() == [
        "reason          examples  first",
        "empty                  2  a.tsv:17",
        "missing column         1  a.tsv:3",
        "total                  3",
    ]
    assert list(report.counts) == ["empty", "missing column"]


def test_one_report_of_several_tasks_has_the_counts_of_each():
    """One line of a file is an example of each task that reads it, and bad for each on its own."""
    report = data.BadExamples()
    places = ["pairs.tsv:1", "pairs.tsv:2", "pairs.tsv:3"]
    for name, texts in {"en_de": ["a", "", ""], "de_en": ["", b"\xff", "b"]}.items():
        task = make_task(TEXT, None, name)
        examples = dataset(texts, [0, 1, 2], source=places)
        for _ in range(2):  # encoded again, its examples are still the same ones
            again = data.encode(examples, task, on_bad="skip", report=report)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert len(list(again)) == 1
    assert report.counts == {"empty": 3, "not UTF-8": 1}
    assert report.counts_by_task == {"en_de": {"empty": 2}, "de_en": {"empty": 1, "not UTF-8": 1}}
    assert [(e.task, e.place) for e in report.examples] == [
        ("en_de", "pairs.tsv:2"),
        ("en_de", "pairs.tsv:3"),
        ("de_en", "pairs.tsv:1"),
        ("de_en", "pairs.tsv:2"),
    ]
    assert str(report).splitlines() == [
        "task   reason     examples  first",
        "en_de  empty             2  pairs.tsv:2",
        "de_en  empty             1  pairs.tsv:1",
        "de_en  not UTF-8         1  pairs.tsv:2",
        "total                    4",
    ]


def test_the_warning_points_at_the_line_that_encodes():
    examples = dataset(["a", ""], [0, 1])
    for cache in (False, True):
        line = inspect.currentframe().f_lineno + 1
        encoded = data.encode(examples, make_task(TEXT, None), cache, on_bad="skip")
        with pytest.warns(UserWarning, match="Bad examples were skipped") as seen:
            list(encoded.repeat(1).prefetch(2))
        assert [(warning.filename, warning.lineno) for warning in seen] == [(__file__, line)]


def test_an_error_names_task_number_and_place():
    examples = dataset(["a", ""], [0, 1], source=["pairs.tsv:1", "pairs.tsv:2"])
    with pytest.raises(tf.errors.OpError, match="example 1 of t, pairs.tsv:2: empty. `in"):
        list(data.encode(examples, make_task(TEXT, None)))


class Decoding(data.Preprocessor):
    """A user's own, with errors of its own."""

    def __init__(self, decode):
        self.decode_bytes = decode

    def __call__(self, raw):
        if tf.executing_eagerly():
            self.decode_bytes(raw.numpy())
        with tf.control_dependencies([tf.debugging.assert_equal(tf.strings.length(raw), 4)]):
            return tf.identity(raw)


@pytest.mark.parametrize(
    "decode,reason,message",
    [
        (lambda raw: raw.decode("utf-8"), "not UTF-8", "'utf-8' codec can't decode"),
        (lambda raw: raw.decode("ascii"), "not UTF-8", "'ascii' codec can't decode"),
        (lambda raw: {}[raw], "preprocessor failed", "KeyError: b'"),
        (lambda raw: raw + 1, "preprocessor failed", "TypeError: "),
        (lambda raw: None, "preprocessor failed", "InvalidArgumentError: "),
    ],
)
def test_reasons_are_plain_words(decode, reason, message):
    kept, report = skip_bad(dataset(["good", b"\xff"], [0, 1]), make_task(Decoding(decode), None))
    assert len(kept) == 1
    assert report.counts == {reason: 1}
    assert message in report.examples[0].message
