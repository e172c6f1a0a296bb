"""Files that would stop a process are bad examples, each with its place; the good ones stay."""

import os

import pytest

from keras_multimodel import Task, data, datasets, layers
from tests.data.encoding import stopping_files as files

TEXT = data.train_text_preprocessor(["words in out abc 0123456789"], 280, "char")
TREES = data.train_tree_preprocessor(["(S (A a))"])
WORDS = layers.TextModality(TEXT.vocabulary_size, 8, preprocessor=TEXT)


def skip_bad(dataset, inputs, targets):
    """Returns how many examples stay, and the reason of each bad one by its place."""
    report = data.BadExamples()
    task = Task("task", inputs, targets)
    encoded = data.encode(dataset, task, on_bad="skip", report=report)
    kept = sum(1 for _ in encoded)
    found = {e.place.rpartition("/")[2]: (e.reason, e.message) for e in report.examples}
    assert len(found) == len(report)
    return kept, found


@pytest.mark.filterwarnings("ignore:Bad examples were skipped")
def test_images(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for number, form in enumerate(["png", "jpeg", "gif", "bmp", "webp"] * 8):
        (folder / f"{number}.{form}").write_bytes(files.image(form.upper()))
    bad = files.image_files(huge=False)
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    files.hole(folder / "hole.png", 1 << 40)
    special = files.special_files(folder, ".png")
    images = layers.ImageModality(8, preprocessor=data.ImagePreprocessor())
    classes = layers.CategoryModality(1, 8, preprocessor=data.CategoryPreprocessor(["a"]))
    kept, found = skip_bad(datasets.image_folder(tmp_path, seed=0), images, classes)
    assert kept == 40
    reasons = {name: reason for name, (reason, _) in found.items()}
    assert reasons == {
        **dict.fromkeys(bad, "too many pixels"),
        **dict.fromkeys(special, "unreadable file"),
        "hole.png": "too large",
    }
    assert found["scans.jpg"][1] == "`raw` must have at most 100 scans. Received: 101 or more"
    assert str(22_000**2) in found["bits.png"][1]


@pytest.mark.filterwarnings("ignore:Bad examples were skipped")
def test_sounds(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    bad = files.sound_files()
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    for number, form in enumerate(["WAV", "FLAC", "OGG"] * 8):
        content = files.sound("VORBIS" if form == "OGG" else "PCM_16", form)
        (folder / f"{number}.{form}").write_bytes(content)
    (tmp_path / "secret.wav").write_bytes(files.sound())
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    files.hole(folder / "hole.wav", 1 << 40)
    special = files.special_files(folder, ".wav")
    out = ["link.wav", "../secret.wav", f"{tmp_path}/secret.wav"]
    names = [*bad, *out, "hole.wav", *special]
    names += sorted(path.name for path in folder.iterdir() if path.name[0].isdigit())
    names = list(dict.fromkeys(names))  # "1hz.wav" begins with a digit too
    rows = ["file\ttext", *(f"{name}\twords" for name in names), "0.WAV\t" + "x" * 2_000_000]
    (folder / "transcripts.tsv").write_text("\n".join(rows))
    audio = layers.AudioModality(8, 40, 2, preprocessor=data.AudioPreprocessor())
    kept, found = skip_bad(datasets.audio_folder(folder), audio, WORDS)
    assert kept == 24
    reasons = {name: found.get(f"transcripts.tsv:{i}") for i, name in enumerate(names, start=2)}
    assert {reasons[name][0] for name in bad} == {"broken audio", "too long"}
    assert {reasons[name][0] for name in out} == {"outside the folder"}
    assert {reasons[name][0] for name in special} == {"unreadable file"}
    assert reasons["hole.wav"][0] == "too large"
    assert reasons["slow.wav"][1] == "`raw` must have at most 600 seconds. Received: 4800"
    assert reasons["2gb.wav"][1].endswith("8000 of 2000000000 bytes of sound")
    assert found[f"transcripts.tsv:{len(names) + 2}"][0] == "too long"


@pytest.mark.filterwarnings("ignore:Bad examples were skipped")
def test_tables_and_trees(tmp_path):
    rows = [f"in {i}\tout {i}" for i in range(20)]
    long = ["b" * 2_000_000, "\t" * 2_000_000, "a\tb" + "\xdf" * 2_000_000]
    (tmp_path / "pairs.tsv").write_text("\n".join(rows[:10] + long + rows[10:]) + "\n")
    kept, found = skip_bad(datasets.tsv_pairs(tmp_path / "pairs.tsv"), WORDS, WORDS)
    assert kept == 20
    assert {place: reason for place, (reason, _) in found.items()} == dict.fromkeys(
        ("pairs.tsv:11", "pairs.tsv:12", "pairs.tsv:13"), "too long"
    )
    deep = "(X " * 300 + "(A a)" + ")" * 300
    lines = ["(S (A a))", "(" * 2_000_000, "(S (A b))" + ")" * 300_000, "(S (A c))", deep]
    (tmp_path / "a.mrg").write_text("\n".join(lines) + "\n")
    os.mkfifo(tmp_path / "b.mrg")
    trees = layers.TextModality(TREES.vocabulary_size, 8, preprocessor=TREES)
    kept, found = skip_bad(datasets.penn_treebank(tmp_path), WORDS, trees)
    assert kept == 3
    assert {place: reason for place, (reason, _) in found.items()} == {
        "a.mrg:2": "too long",
        "a.mrg:3": "broken tree",
        "a.mrg:5": "broken tree",
        "b.mrg:1": "unreadable file",
    }
    assert "must nest at most 200 phrases" in found["a.mrg:5"][1]
    assert len(found["a.mrg:5"][1]) < 1200
