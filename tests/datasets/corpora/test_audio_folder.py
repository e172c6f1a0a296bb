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
