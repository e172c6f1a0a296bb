"""Text of other encodings and line ends: decoded, or bad with its place."""

import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel import data
from keras_multimodel.data.preprocessing.text_files import read_lines

TEXT = "größe\tÜber\nzwei\t日本\n"
LINES = [(1, "größe\tÜber", ""), (2, "zwei\t日本", "")]


def written(path, content):
    path.write_bytes(content)
    return list(read_lines(path))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    content = (mark + TEXT.replace("\n", end)).encode(encoding)
    assert written(tmp_path / "a.txt", content) == LINES


def test_line_ends_may_be_mixed_and_blank_lines_count(tmp_path):
    lines = written(tmp_path / "a.txt", b"a\rb\r\n\r\nc\n\rd")
    assert [(line.number, line.text) for line in lines] == [
        (1, "a"),
        (2, "b"),
        (3, ""),
        (4, "c"),
        (5, ""),
        (6, "d"),
    ]


def test_a_mark_in_the_middle_is_no_text(tmp_path):
    twice = written(tmp_path / "a.txt", "\ufeffa\n".encode() * 2)
    assert [line.text for line in twice] == ["a", "a"]


@pytest.mark.parametrize(
    "content,reason",
    [
        ("a\nß\nb\n".encode("latin-1"), r"not UTF-8: a line must be UTF-8. Received: b'\\xdf'"),
        (b"a\n\xed\xa0\x80\nb\n", "not UTF-8: "),  # a surrogate
        (b"a\n\xe2\x82\nb\n", "not UTF-8: "),  # a character that is cut
        (b"a\nx\0\nb\n", "not UTF-8: .* NUL"),
        (b"\xff\xfea\0\n\0\x00\xd8\n\0b\0\n\0", "not UTF-16: "),  # half a pair
        ("\ufeffa\n".encode("utf-32-le") + b"\0\0\x11\0\n\0\0\0b\0\0\0", "not UTF-32: "),
    ],
)
def test_what_is_no_text_costs_its_line_only(tmp_path, content, reason):
    lines = written(tmp_path / "a.txt", content)
    assert [(line.number, bool(line.problem)) for line in lines] == [
        (1, False),
        (2, True),
        (3, False),
    ]
    assert (lines[0].text, lines[2].text) == ("a", "b")
    with pytest.raises(ValueError, match=reason):
        raise ValueError(lines[1].problem)


def test_utf16_that_was_cut(tmp_path):
    *_, last = written(tmp_path / "a.txt", "a\nbc".encode("utf-16")[:-1])
    assert last.number == 2 and last.problem.startswith("not UTF-16: ")


def preprocessors():
    return [
        data.train_text_preprocessor(["abc"], 64, "char", byte_fallback=False),
        data.train_word_piece_preprocessor(["abc"], 20),
        data.train_tree_preprocessor(["(S (A a))"]),
    ]


@pytest.mark.parametrize("preprocessor", preprocessors(), ids=lambda p: type(p).__name__)
def test_preprocessors_say_that_a_string_is_not_utf8(preprocessor):
    for raw in (b"(S (A \xff))", "(S (A ß))".encode("latin-1")):
        with pytest.raises(
            data.BadExampleError, match="`raw` must be UTF-8. Received: b'"
        ) as caught:
            preprocessor(raw)
        assert caught.value.reason == "not UTF-8"
        with pytest.raises(tf.errors.OpError):
            next(iter(tf.data.Dataset.from_tensors(raw).map(preprocessor)))


@pytest.mark.parametrize(
    "train,argument",
    [
        (lambda texts: data.train_text_preprocessor(texts, 300), "sentences"),
        (lambda texts: data.train_word_piece_preprocessor(texts, 300), "sentences"),
        (data.train_tree_preprocessor, "trees"),
    ],
    ids=["text", "word_piece", "tree"],
)
def test_training_says_which_string_is_not_utf8(train, argument):
    good = "(S (A a))"
    for texts in (
        [good, good, b"(S (A \xff))"],
        [good, "", "(S (A \ud800))"],
        tf.data.Dataset.from_tensor_slices([good, "  ", b"(S (A \xff))"]),
    ):
        if argument == "trees" and not isinstance(texts, tf.data.Dataset):
            texts = [text or good for text in texts]
        if argument == "trees" and isinstance(texts, tf.data.Dataset):
            texts = texts.map(lambda text: tf.where(text == "  ", good, text))
        with pytest.raises(data.BadExampleError, match=rf"`{argument}\[2\]` must be UTF-8"):
            train(texts)


def test_training_says_which_tree_is_broken():
    with pytest.raises(ValueError, match=r"`trees\[1\]` is not one tree: .*1 are open"):
        data.train_tree_preprocessor(["(S (A a))", "(S (A a)"])


def test_decode_says_that_a_sentence_is_not_utf8():
    trees = data.train_tree_preprocessor(["(S (A a))"])
    with pytest.raises(data.BadExampleError, match="`inputs` must be UTF-8"):
        trees.decode(np.array([3, 1]), inputs=b"\xff")
