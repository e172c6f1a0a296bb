"""A folder of images by class."""

import random
from pathlib import Path

import tensorflow as tf

from keras_multimodel.datasets.corpora.files import existing_folder, read_file

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def image_folder(folder: str | Path, seed: int | None = None) -> tf.data.Dataset:
    """Reads a folder that holds a folder of images for each class.

    Files end in `.jpg`, `.jpeg`, `.png`, `.gif` or `.bmp`, in capitals or not, at any depth below
    their class; others, and those whose names begin with a dot, are left out. The names of the
    files are kept in memory, the files are read one by one. A file that cannot be read is an
    example with a `problem`, which `kmm.data.encode` raises or skips.

    Args:
        folder: the folder. The names of the folders in it are the classes.
        seed: of the order of the files. None keeps that of their names, class by class.

    Returns:
        A `tf.data.Dataset` of strings `{"inputs": bytes of a file, "targets": name of its class,
        "source": path, "problem"}`. `kmm.datasets.image_classes` has the names of the classes.

    Raises:
        ValueError: there is no such folder, or it has no class with an image.

    Example:

    ```python
    images = kmm.datasets.image_folder("flowers")
    classes = kmm.data.CategoryPreprocessor(kmm.datasets.image_classes("flowers"))
    ```
    """
    names = image_classes(folder)
    files = [(str(path), name) for name in names for path in _images(Path(folder) / name)]
    if seed is not None:
        random.Random(seed).shuffle(files)
    paths, targets = zip(*files)

    @tf.autograph.experimental.do_not_convert
    def to_example(path, target):
        content, problem = read_file(path)
        return {"inputs": content, "targets": target, "source": path, "problem": problem}

    dataset = tf.data.Dataset.from_tensor_slices((list(paths), list(targets)))
    return dataset.map(to_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def image_classes(folder: str | Path) -> list[str]:
    """Returns the classes of a folder of images, sorted.

    Args:
        folder: see `image_folder`.

    Returns:
        The names of those folders in it that have an image.

    Raises:
        ValueError: there is no such folder, or it has no class with an image.
    """
    folder = existing_folder("folder", folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(_images(path)))
    if not names:
        raise ValueError(
            f"`folder` must have folders with images ({', '.join(_SUFFIXES)}). "
            f"Received: folder={str(folder)!r}"
        )
    return names


def _images(folder):
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return [path for path in files if not path.name.startswith(".") and not path.is_dir()]
