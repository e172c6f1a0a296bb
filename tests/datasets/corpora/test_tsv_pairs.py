import pytest

from keras_multimodel import datasets


def rows(dataset):
    return [
        tuple(example[key].decode() for key in ("inputs", "targets", "source", "problem"))
        for example in dataset.as_numpy_iterator()
    ]


def test_shipped_pairs_written_and_read_back(tmp_path):
    shipped = list(datasets.load("en_fr").as_numpy_iterator())
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"".join(b"%s\t%s\n" % (p["inputs"], p["targets"]) for p in shipped))
    read = list(datasets.tsv_pairs(path).as_numpy_iterator())
    assert [{key: p[key] for key in ("inputs", "targets")} for p in read] == shipped
    assert [p["source"].decode() for p in read] == [f"{path}:{i + 1}" for i in range(len(shipped))]
    swapped = datasets.tsv_pairs(path, inputs=1, targets=0).as_numpy_iterator()
    assert [p["inputs"] for p in swapped] == [p["targets"] for p in shipped]


def test_named_columns_byte_order_mark_and_line_ends(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes("\ufeffid\tquestion\tanswer\r\n1\twhy\tß\r\n\r\n2\thow\t\r\n".encode())
    assert rows(datasets.tsv_pairs(path, "question", "answer")) == [
        ("why", "ß", f"{path}:2", ""),
        ("how", "", f"{path}:4", ""),
    ]
    assert rows(datasets.tsv_pairs(path, "id", "answer"))[0][:2] == ("1", "ß")
    path.write_text("\ufeffa\tb\n")
    assert rows(datasets.tsv_pairs(path)) == [("a", "b", f"{path}:1", "")]


def test_missing_column(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("only\na\tb\tc\n")
    problem = "missing column: a row must have 2 columns. Received: 1"
    assert rows(datasets.tsv_pairs(path)) == [
        ("only", "", f"{path}:1", problem),
        ("a", "b", f"{path}:2", ""),
    ]


def test_errors(tmp_path):
    path = tmp_path / "t.tsv"
    with pytest.raises(ValueError, match=r"`path` must be a file that is not empty.*t\.tsv"):
        datasets.tsv_pairs(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"`path` must be a file that is not empty.*t\.tsv"):
        datasets.tsv_pairs(path)
    path.write_text("a b\nc d\n")
    with pytest.raises(ValueError, match=r"at least 2 columns.*t\.tsv:1 with 1"):
        datasets.tsv_pairs(path)
    path.write_text("a\tb\n")
    with pytest.raises(ValueError, match=r"`targets` must be a column of .*:1: a, b.*='c'"):
        datasets.tsv_pairs(path, "a", "c")
    for inputs, targets in (("a", 1), (-1, 0), (0, 1.5)):
        with pytest.raises(ValueError, match=f"two names, or two numbers.*inputs={inputs!r}"):
            datasets.tsv_pairs(path, inputs, targets)
