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
