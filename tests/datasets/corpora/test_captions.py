"""Images with captions, from a folder and from arrays."""

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.datasets import caption_folder, npz_pairs

IMAGES = np.arange(3 * 4 * 5 * 3, dtype="uint8").reshape(3, 4, 5, 3)
TEXTS = ["eine Straße", "two cats", "три"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(IMAGES):
        keras.utils.save_img(tmp_path / "photos" / f"{number}.png", image, scale=False)
    lines = ["caption\tfile", *(f"{text}\tphotos/{i}.png" for i, text in enumerate(TEXTS))]
    (tmp_path / "table.tsv").write_text("\n".join([*lines, "again\tphotos/0.png\n"]))
    return tmp_path


def read(dataset):
    return list(dataset.as_numpy_iterator())


def test_a_folder_with_a_table(folder):
    found = read(caption_folder(folder, "table.tsv", inputs="file", targets="caption"))
    assert [row["targets"].decode() for row in found] == [*TEXTS, "again"]
    assert [row["inputs"] for row in found[:3]] == [
        (folder / "photos" / f"{number}.png").read_bytes() for number in range(3)
    ]
    assert found[3]["inputs"] == found[0]["inputs"]
    assert found[1]["source"].decode() == f"{folder / 'table.tsv'}:3"
    assert {row["problem"] for row in found} == {b""}


def test_bad_rows_have_a_problem(folder):
    (folder / "captions.tsv").write_text("gone.png\ta\n../out.png\tb\nphotos/0.png\n")
    found = [row["problem"].decode() for row in read(caption_folder(folder))]
    assert [problem.partition(":")[0] for problem in found] == [
        "unreadable file",
        "outside the folder",
        "missing column",
    ]
    small = read(caption_folder(folder, "table.tsv", "file", "caption", max_bytes=10))
    assert small[0]["problem"].startswith(b"too large")


def test_arrays_of_a_file(tmp_path):
    path = tmp_path / "captions.npz"
    np.savez(path, images=IMAGES, texts=np.array(TEXTS), other=[{}])
    found = read(npz_pairs(path, inputs="images", targets="texts"))
    np.testing.assert_array_equal([row["inputs"] for row in found], IMAGES)
    assert [row["targets"].decode() for row in found] == TEXTS


def test_captions_are_learned_from_an_npz_file(tmp_path):
    path = tmp_path / "captions.npz"
    np.savez(path, inputs=IMAGES, targets=TEXTS)
    letters = kmm.data.train_text_preprocessor(TEXTS, 300, "char")
    pixels = kmm.data.ImagePreprocessor((4, 4))
    image = kmm.layers.ImageModality(8, (4, 4, 3), num_blocks=1, preprocessor=pixels)
    text = kmm.layers.TextModality(letters.vocabulary_size, 8, preprocessor=letters)
    task = kmm.Task("caption", image, text)
    encoded = read(kmm.data.encode(npz_pairs(path), task))
    assert [letters.decode(row["targets"]) for row in encoded] == TEXTS
    assert encoded[0]["inputs"].shape == (4, 4, 3)


def test_errors(folder, tmp_path):
    with pytest.raises(ValueError, match="`folder` must be a folder.*nowhere"):
        caption_folder(folder / "nowhere")
    with pytest.raises(ValueError, match="`table` must be a file.*captions.tsv"):
        caption_folder(folder)
    with pytest.raises(ValueError, match="`targets` must be a column .*'text'"):
        caption_folder(folder, "table.tsv", "file", "text")
    with pytest.raises(ValueError, match="`max_bytes` must be .*max_bytes=0"):
        caption_folder(folder, "table.tsv", max_bytes=0)
    path = tmp_path / "a.npz"
    with pytest.raises(ValueError, match="`path` must be a file.*a.npz"):
        npz_pairs(path)
    np.savez(path, inputs=IMAGES, targets=["a"], objects=np.array([{}]), one=3)
    with pytest.raises(ValueError, match=r"arrays with one row.*inputs \(3, 4, 5, 3\), targets"):
        npz_pairs(path)
    with pytest.raises(ValueError, match=r"arrays with one row.*one \(\)"):
        npz_pairs(path, targets="one")
    with pytest.raises(ValueError, match=r"arrays 'inputs' and 'text'.*with \['inputs', 'targets'"):
        npz_pairs(path, targets="text")
    with pytest.raises(ValueError, match="without Python objects.*a.npz"):
        npz_pairs(path, targets="objects")
    for content in (b"no archive", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="`path` must be an `.npz` file.*a.npz"):
            npz_pairs(path)
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(ValueError, match="`path` must be an `.npz` file.*one.npy"):
        npz_pairs(tmp_path / "one.npy")
