import os

import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel import data, datasets


@pytest.fixture(scope="module")
def digits():
    return list(datasets.load("digits", "test").take(60).as_numpy_iterator())


@pytest.fixture
def folder(digits, tmp_path):
    for index, digit in enumerate(digits):
        name = f"class {digit['targets']}"
        (tmp_path / name / "deep").mkdir(parents=True, exist_ok=True)
        png = tf.io.encode_png(digit["inputs"]).numpy()
        suffix = (".png", ".PNG", ".png")[index % 3]
        (tmp_path / name / ("deep" if index % 2 else "") / f"{index}{suffix}").write_bytes(png)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "class 0" / "notes.txt").write_text("no image")
    (tmp_path / "class 0" / ".hidden.png").write_text("no image")
    return tmp_path


def test_shipped_digits_written_and_read_back(folder, digits):
    images = datasets.image_folder(folder)
    assert images.cardinality() == len(digits)
    wanted = {(int(digit["targets"]), digit["inputs"].tobytes()) for digit in digits}
    read = list(images.as_numpy_iterator())
    assert wanted == {
        (int(e["targets"][-1:]), tf.io.decode_png(e["inputs"]).numpy().tobytes()) for e in read
    }
    assert [e["targets"] for e in read] == sorted(e["targets"] for e in read)
    assert [e["source"] for e in images.as_numpy_iterator()] == [e["source"] for e in read]


def test_classes_are_those_of_the_folder(folder, digits):
    names = datasets.image_classes(folder)
    assert names == sorted({f"class {digit['targets']}" for digit in digits})
    category = data.CategoryPreprocessor(names)
    for example in datasets.image_folder(folder).take(3):
        assert category.decode(category(example["targets"])) == example["targets"].numpy().decode()


def test_seed_gives_an_order(folder):
    def order(seed):
        return [e["source"] for e in datasets.image_folder(folder, seed).as_numpy_iterator()]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(None))


def test_file_that_cannot_be_read(folder):
    gone = folder / "class 1" / "gone.png"
    gone.symlink_to(folder / "nowhere")
    problems = {
        e["source"].decode(): e["problem"]
        for e in datasets.image_folder(folder).as_numpy_iterator()
    }
    bad = {path: problem for path, problem in problems.items() if problem}
    assert list(bad) == [str(gone)]
    assert bad[str(gone)].startswith(b"unreadable file: ")


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="`folder` must be a folder.*none"):
        datasets.image_folder(tmp_path / "none")
    (tmp_path / "class").mkdir()
    with pytest.raises(ValueError, match=r"`folder` must have folders with images \(.bmp"):
        datasets.image_folder(tmp_path)


def test_pixels_survive(folder, digits):
    encode = data.ImagePreprocessor((28, 28))
    first = next(datasets.image_folder(folder).as_numpy_iterator())
    digit = digits[int(first["source"].decode().split("/")[-1].split(".")[0])]
    np.testing.assert_array_equal(encode(first["inputs"]), encode(digit["inputs"]))


@pytest.mark.parametrize(
    "hidden",
    [
        ".ipynb_checkpoints",
        ".cache/deep",
        "__MACOSX",
        "class 0/.ipynb_checkpoints",
        "class 0/deep/.thumbnails/x",
        "class 0/@eaDir",
        "$RECYCLE.BIN",
    ],
)
def test_hidden_folders_are_no_class_and_hold_no_examples(folder, hidden):
    before = [e["source"] for e in datasets.image_folder(folder).as_numpy_iterator()]
    names = datasets.image_classes(folder)
    (folder / hidden).mkdir(parents=True)
    (folder / hidden / "copy.png").write_bytes(b"copy")
    assert datasets.image_classes(folder) == names
    after = [e["source"] for e in datasets.image_folder(folder).as_numpy_iterator()]
    assert after == before


def test_the_folder_itself_may_be_hidden(digits, tmp_path):
    folder = tmp_path / ".cache" / "__MACOSX" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(tf.io.encode_png(digits[0]["inputs"]).numpy())
    assert datasets.image_classes(folder.parent) == ["cat"]
    assert datasets.image_folder(folder.parent).cardinality() == 1


def test_links_to_folders(folder, tmp_path_factory):
    names = datasets.image_classes(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a.png").write_bytes(b"png")
    (folder / "class x").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "parent").symlink_to(folder.parent)
    (folder / "class 0" / "loop").symlink_to(folder / "class 0")
    size = datasets.image_folder(folder).cardinality()
    assert datasets.image_classes(folder) == [*names, "class x"]
    assert size == 61


def test_what_is_no_regular_file_is_a_bad_example(folder):
    pipe, device = folder / "class 0" / "pipe.png", folder / "class 0" / "zero.png"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    bad = {e["source"].decode(): e for e in datasets.image_folder(folder).as_numpy_iterator()}
    for path in (pipe, device):
        assert bad[str(path)]["problem"].startswith(b"unreadable file: ")
        assert bad[str(path)]["inputs"] == b""


def test_names_that_are_not_utf8(folder):
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "class 0" / name).write_bytes(b"png")
    sources = [e["source"] for e in datasets.image_folder(folder).as_numpy_iterator()]
    assert os.fsencode(folder / "class 0" / name) in sources
    (folder / os.fsdecode(b"\xff")).mkdir()
    (folder / os.fsdecode(b"\xff") / "a.png").write_bytes(b"png")
    with pytest.raises(ValueError, match="`folder` must be UTF-8"):
        datasets.image_classes(folder)


def test_bytes_of_files_are_kept_to_the_last(folder):
    (folder / "class 0" / "nul.png").write_bytes(b"png\0\0")
    contents = {
        e["source"][-7:]: e["inputs"] for e in datasets.image_folder(folder).as_numpy_iterator()
    }
    assert contents[b"nul.png"] == b"png\0\0"
