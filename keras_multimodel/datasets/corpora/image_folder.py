"""A folder of images by class."""

import os
import random
from pathlib import Path

import tensorflow as tf

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.preprocessing.text_files import decode_utf8
from keras_multimodel.datasets.corpora.files import (
    MAX_BYTES,
    existing_folder,
    find_files,
    find_folders,
    with_contents,
)

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


def image_folder(
    folder: str | Path, seed: int | None = None, max_bytes: int = MAX_BYTES
) -> tf.data.Dataset:
    """Reads a folder that holds a folder of images for each class.

    Files end in `.jpg`, `.jpeg`, `.png`, `.gif`, `.bmp` or `.webp`, in capitals or not, at any
    depth below their class. Other files are left out, and so is what is hidden (a dot starts its
    name, or that of a folder above, as in `.ipynb_checkpoints`) or was left by a system
    (`__MACOSX`, `@eaDir`). The names of the files are kept in memory, the files are read one by
    one. A file that cannot be read is an example with a `problem`, which `kmm.data.encode` raises
    or skips.

    Args:
        folder: the folder. The names of the folders in it are the classes.
        seed: seed of the order of the files. None sorts them by class and name.
        max_bytes: the most bytes of a file. A larger one is an example with a `problem`.

    Returns:
        A `tf.data.Dataset` of strings `{"inputs": bytes of a file, "targets": name of its class,
        "source": path, "problem"}`. `kmm.datasets.image_classes` has the names of the classes.

    Raises:
        ValueError: there is no such folder, it has no class with an image, or `max_bytes` is not
            positive.

    Example:

    ```python
    import pathlib

    pathlib.Path("flowers", "rose").mkdir(parents=True)
    keras.utils.save_img("flowers/rose/1.png", np.zeros((8, 8, 3)))
    images = kmm.datasets.image_folder("flowers")
    classes = kmm.data.CategoryPreprocessor(kmm.datasets.image_classes("flowers"))
    ```
    """
    max_bytes = positive_int("max_bytes", max_bytes)
    names = image_classes(folder)
    files = [(path, name) for name in names for path in _images(Path(folder) / name)]
    # All paths at once: the files stand by class, and a buffer of images would see one class only.
    if seed is not None:
        random.Random(seed).shuffle(files)
    paths = [os.fsencode(path) for path, _ in files]  # names of files need not be UTF-8
    columns = {"inputs": paths, "targets": [name for _, name in files], "source": paths}
    columns["problem"] = [""] * len(files)
    return with_contents(tf.data.Dataset.from_tensor_slices(columns), max_bytes)


def image_classes(folder: str | Path) -> list[str]:
    """Returns the classes of a folder of images, sorted.

    Args:
        folder: see `image_folder`.

    Returns:
        The names of those folders in it that have an image.

    Raises:
        ValueError: there is no such folder, it has no class with an image, or the name of a class
            is not UTF-8.
    """
    folder = existing_folder("folder", folder)
    names = [path.name for path in find_folders(folder) if _images(path)]
    if not names:
        expected = f"`folder` must have folders with images ({', '.join(_SUFFIXES)})"
        raise ValueError(f"{expected}. Received: folder={str(folder)!r}")
    for name in names:
        decode_utf8("folder", os.fsencode(folder / name))
    return names


def _images(folder: Path) -> list[Path]:
    files = find_files(folder, "**/*")
    return [path for path in files if path.suffix.lower() in _SUFFIXES]
