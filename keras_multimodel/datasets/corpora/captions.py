"""Images with captions: a folder with a table, or arrays in a file."""

import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.preprocessing.text_files import MAX_LINE
from keras_multimodel.datasets.corpora.files import (
    MAX_BYTES,
    dataset_of_rows,
    existing_file,
    existing_folder,
    rows_below,
    with_contents,
)
from keras_multimodel.datasets.corpora.tsv_pairs import read_pairs


def caption_folder(
    folder: str | Path,
    table: str = "captions.tsv",
    inputs: int | str = 0,
    targets: int | str = 1,
    max_bytes: int = MAX_BYTES,
    max_line: int = MAX_LINE,
) -> tf.data.Dataset:
    """Reads a folder of images and a table of their captions, in columns separated by tabs.

    Everything is read lazily. An image may stand in several rows. A row without a caption, or whose
    image cannot be read or lies outside the folder, is an example with a `problem`, which
    `kmm.data.encode` raises or skips.

    Args:
        folder: the folder.
        table: name of the table in it.
        inputs: the column with the files, as paths from the folder: its number from 0, or its name
            in the first row.
        targets: the column of the captions, in the same way.
        max_bytes: the most bytes of an image.
        max_line: the most characters of a line.

    Returns:
        A `tf.data.Dataset` of strings `{"inputs": bytes of a file, "targets": caption, "source":
        path and line of the row, "problem"}` in the order of the table.

    Raises:
        ValueError: there is no such folder or table, the table lacks a column, or a limit is not
            positive.

    Example:

    ```python
    keras.utils.save_img("rose.png", np.zeros((8, 8, 3)))
    with open("captions.tsv", "w") as file:
        file.write("rose.png\\ta rose at night\\n")
    captions = kmm.datasets.caption_folder(".")
    ```
    """
    folder = existing_folder("folder", folder)
    max_bytes = positive_int("max_bytes", max_bytes)
    existing_file("table", folder / table)
    rows = read_pairs(folder / table, inputs, targets, max_line=max_line)
    return with_contents(dataset_of_rows(rows_below(folder, rows)), max_bytes)


def npz_pairs(
    path: str | Path, inputs: str = "inputs", targets: str = "targets"
) -> tf.data.Dataset:
    """Reads two arrays of an `.npz` file, such as images and captions, row by row.

    Args:
        path: the file, as `np.savez` writes it.
        inputs: name of the array of inputs, such as uint8 `(examples, height, width, 3)`.
        targets: name of the array of targets, such as texts `(examples,)`.

    Returns:
        A `tf.data.Dataset` of `{"inputs": row, "targets": row}`. Texts are strings.

    Raises:
        ValueError: there is no such file, it is no `.npz` file, it lacks an array, an array holds
            Python objects, or the arrays differ in the number of rows or have none.

    Example:

    ```python
    np.savez("captions.npz", images=np.zeros((2, 8, 8, 3), "uint8"), texts=["a rose", "a tulip"])
    captions = kmm.datasets.npz_pairs("captions.npz", inputs="images", targets="texts")
    ```
    """
    path = existing_file("path", path)
    try:
        # Python objects would be unpickled, which can run any code.
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (inputs, targets)}
    except KeyError as error:
        with zipfile.ZipFile(path) as file:
            names = [name.removesuffix(".npy") for name in file.namelist()]
        raise ValueError(
            f"`path` must hold the arrays {inputs!r} and {targets!r}. Received: {path} with {names}"
        ) from error
    except (AttributeError, EOFError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            "`path` must be an `.npz` file of arrays without Python objects. "
            f"Received: path={str(path)!r} ({error})"
        ) from error
    shapes = [array.shape for array in arrays.values()]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1 or not shapes[0][0]:
        raise ValueError(
            "`path` must hold arrays with one row, or as many, for each example. "
            f"Received: {path} with " + ", ".join(f"{k} {a.shape}" for k, a in arrays.items())
        )
    rows = {"inputs": arrays[inputs], "targets": arrays[targets]}
    return tf.data.Dataset.from_tensor_slices({key: _texts(a) for key, a in rows.items()})


def _texts(array):
    """Returns strings of Python in UTF-8, and other arrays as they are."""
    return np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
