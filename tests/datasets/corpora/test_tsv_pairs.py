import csv

import pytest

from keras_multimodel import datasets


def rows(dataset):
    return [
        tuple(example[key].decode() for key in ("inputs", "targets", "source", "problem"))
        for example in dataset.as_numpy_iterator()
    ]


@pytest.mark.slow
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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    path = tmp_path / "t.tsv"
    path.write_bytes(f"frage\tantwort{end}good morning\tß{end}{end}two\t日本".encode(encoding))
    assert rows(datasets.tsv_pairs(path, "frage", "antwort")) == [
        ("good morning", "ß", f"{path}:2", ""),
        ("two", "日本", f"{path}:4", ""),
    ]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_wide_encodings_without_a_mark_are_an_error_at_once(tmp_path, encoding):
    path = tmp_path / "t.tsv"
    path.write_bytes("a\tb\nc\td\n".encode(encoding))
    with pytest.raises(ValueError, match=r"t\.tsv:1 with not UTF-8: .*NUL"):
        datasets.tsv_pairs(path)
    with pytest.raises(ValueError, match="NUL.*inputs='a'"):
        datasets.tsv_pairs(path, "a", "b")


def test_rows_and_headers_that_are_not_utf8(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes("größe\tb\na\tb\n".encode("latin-1") + b"c\td\n")
    read = rows(datasets.tsv_pairs(path))
    assert [row[3].partition(":")[0] for row in read] == ["not UTF-8", "", ""]
    assert [row[2] for row in read] == [f"{path}:{n}" for n in (1, 2, 3)]
    with pytest.raises(ValueError, match=r"a column of .*t\.tsv:1: not UTF-8: .*inputs='größe'"):
        datasets.tsv_pairs(path, "größe", "b")


def test_quoted_cells_as_a_spreadsheet_writes_them(tmp_path):
    path = tmp_path / "t.tsv"
    table = [
        ["question", "note", "answer"],
        ["a\tb", "", 'he said "no"'],
        ["two\nlines\n\n", "x", '"'],
        ["last", "", ""],
    ]
    for encoding in ("utf-8", "utf-16"):
        with path.open("w", newline="", encoding=encoding) as file:
            csv.writer(file, dialect="excel-tab").writerows(table)
        assert rows(datasets.tsv_pairs(path, "question", "answer", quoting=True)) == [
            ("a\tb", 'he said "no"', f"{path}:2", ""),
            ("two\nlines\n\n", '"', f"{path}:3", ""),
            ("last", "", f"{path}:7", ""),
        ]
    path.write_text('"a\t"b"\n')  # without quoting a quote is a character like any other
    assert rows(datasets.tsv_pairs(path)) == [('"a', '"b"', f"{path}:1", "")]


@pytest.mark.parametrize("bad", ['"open\tb', '"a"x\tb', "c", '"more\nlines'])
def test_a_row_with_broken_quotes_costs_its_line_only(tmp_path, bad):
    path = tmp_path / "t.tsv"
    path.write_text(f"a\tb\n{bad}\nc\td\n" + "e\tf\n" * 1500)
    read = rows(datasets.tsv_pairs(path, quoting=True))
    broken = [row for row in read if row[3]]
    assert broken[0][2] == f"{path}:2"
    assert [row[:2] for row in read if not row[3]] == [("a", "b"), ("c", "d")] + [("e", "f")] * 1500


def test_pairs_are_read_lazily_and_again(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("a\tb\n" * 1000)
    pairs = datasets.tsv_pairs(path)
    assert len(rows(pairs.take(1))) == 1
    assert len(rows(pairs)) == len(rows(pairs)) == 1000
