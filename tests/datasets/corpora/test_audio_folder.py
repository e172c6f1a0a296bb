import os

import pytest

from keras_multimodel import datasets
from keras_multimodel.datasets import sources


@pytest.fixture(scope="module")
def speech():
    return list(datasets.load("speech", "test").as_numpy_iterator())


def pairs(dataset):
    return [(e["inputs"], e["targets"]) for e in dataset.as_numpy_iterator()]


def test_shipped_folder_is_read_as_it_is():
    folder = sources.FILES / "speech"
    read = list(datasets.audio_folder(folder).as_numpy_iterator())
    table = sources.table("speech")
    assert [e["targets"].decode() for e in read] == list(table["text"])
    assert read[7]["inputs"] == (folder / table["file"][7]).read_bytes()
    assert read[7]["source"].decode() == f"{folder / 'transcripts.tsv'}:9"
    assert {e["problem"] for e in read} == {b""}


def test_shipped_speech_written_as_librispeech_and_read_back(speech, tmp_path):
    for index, example in enumerate(speech):
        chapter = tmp_path / f"{index // 10:02d}" / "7"
        chapter.mkdir(parents=True, exist_ok=True)
        name = f"{index // 10:02d}-7-{index:04d}"
        (chapter / f"{name}.flac").write_bytes(example["inputs"])
        with (chapter / f"{index // 10:02d}-7.trans.txt").open("ab") as file:
            file.write(name.encode() + b" " + example["targets"] + b"\n")
    read = datasets.audio_folder(tmp_path)
    assert pairs(read) == [(e["inputs"], e["targets"]) for e in speech]
    last = list(read.as_numpy_iterator())[11]
    assert last["source"].decode() == f"{tmp_path / '01' / '7' / '01-7.trans.txt'}:2"


def test_bad_rows(tmp_path):
    (tmp_path / "a.flac").write_bytes(b"flac")
    (tmp_path / "1.trans.txt").write_text("a SOME WORDS\na\n\ngone WORDS\n")
    read = list(datasets.audio_folder(tmp_path).as_numpy_iterator())
    assert [(e["inputs"], e["targets"]) for e in read] == [
        (b"flac", b"SOME WORDS"),
        (b"flac", b""),
        (b"", b"WORDS"),
    ]
    problems = [e["problem"].decode() for e in read]
    assert problems[0] == ""
    assert problems[1].startswith("missing column: ") and problems[1].endswith("Received: a")
    assert problems[2].startswith("unreadable file: ") and problems[2].endswith("gone.flac")


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="`folder` must be a folder"):
        datasets.audio_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"must have a transcripts.tsv or files \*.trans.txt"):
        datasets.audio_folder(tmp_path)
    (tmp_path / "transcripts.tsv").write_text("file\tseconds\na.flac\t1\n")
    with pytest.raises(ValueError, match=r"transcripts.tsv:1: file, seconds.*targets='text'"):
        datasets.audio_folder(tmp_path)


def problems(folder):
    return [e["problem"].decode().partition(":")[0] for e in read_all(folder)]


def read_all(folder):
    return list(datasets.audio_folder(folder).as_numpy_iterator())


@pytest.mark.parametrize("form", ["transcripts.tsv", "1.trans.txt"])
def test_files_outside_the_folder_are_not_read(tmp_path, form):
    inner = tmp_path / "inner"
    (inner / "deep").mkdir(parents=True)
    for path in (tmp_path / "secret.flac", inner / "a.flac", tmp_path / "inner2.flac"):
        path.write_bytes(b"flac\0\0")
    ends = ".flac" if form.endswith("tsv") else ""
    names = ("a", "../secret", f"{tmp_path}/secret", "deep/../a", "deep/../../inner2", "../inner2")
    if form.endswith("tsv"):
        rows = ["file\ttext"] + [f"{name}{ends}\twords" for name in names]
    else:
        rows = [f"{name} words" for name in names]
    (inner / form).write_text("\n".join(rows) + "\n")
    good, bad = "", "outside the folder"
    assert problems(inner) == [good, bad, bad, good, bad, bad]
    contents = [e["inputs"] for e in read_all(inner)]
    assert contents == [b"flac\0\0", b"", b"", b"flac\0\0", b"", b""]


def test_what_is_no_regular_file_is_a_bad_example(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
    names = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "transcripts.tsv").write_text(
        "file\ttext\n" + "".join(f"{name}\twords\n" for name in [*names, "a\0b.wav", "."])
    )
    assert problems(tmp_path) == ["unreadable file"] * 4 + ["not UTF-8", "unreadable file"]


@pytest.mark.parametrize("encoding,end", [("utf-16", "\r\n"), ("utf-8-sig", "\r")])
@pytest.mark.parametrize("form", ["transcripts.tsv", "1.trans.txt"])
def test_encodings_and_line_ends(tmp_path, form, encoding, end):
    (tmp_path / "a.flac").write_bytes(b"flac")
    lines = ["file\ttext", "a.flac\tgood morning", "a.flac\tß"]
    if form.endswith("txt"):
        lines = ["", "a good morning", "a ß"]
    (tmp_path / form).write_bytes(end.join(lines).encode(encoding))
    read = read_all(tmp_path)
    assert [(e["inputs"], e["targets"].decode()) for e in read] == [
        (b"flac", "good morning"),
        (b"flac", "ß"),
    ]
    assert [e["source"].decode() for e in read] == [f"{tmp_path / form}:{n}" for n in (2, 3)]


def test_a_transcript_that_is_not_utf8(tmp_path):
    (tmp_path / "a.flac").write_bytes(b"flac")
    (tmp_path / "1.trans.txt").write_bytes(b"a GOOD\na caf\xe9\na GOOD\n")
    assert problems(tmp_path) == ["", "not UTF-8", ""]


def test_hidden_lists_are_left_out(tmp_path):
    for name in (".ipynb_checkpoints", "__MACOSX", "x/.git", "x"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "1.trans.txt").write_text("a WORDS\n")
    assert [e["source"].decode() for e in read_all(tmp_path)] == [f"{tmp_path}/x/1.trans.txt:1"]
