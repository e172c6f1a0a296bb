"""Files of corpora: finding them, reading them, and making data sets of their rows."""

import errno
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_multimodel.data.preprocessing.preprocessor import in_python
from keras_multimodel.data.preprocessing.text_files import UNREADABLE
from keras_multimodel.regular_files import read_regular

MAX_BYTES = 1 << 26  # of one image or sound: 35 minutes of speech
_STRING = tf.TensorSpec((), tf.string)
_KEYS = ("inputs", "targets", "source", "problem")
_BLOCK = 128  # rows that pass from Python to TensorFlow at once: one call a row is ten times slower
# What systems leave in folders without being asked to. Names with a leading dot are left out too.
_LITTER = {
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "__pycache__",
    "desktop.ini",
    "lost+found",
    "system volume information",
    "thumbs.db",
}


def existing_file(argument: str, path: str | Path) -> Path:
    """Returns a path if it is a file that is not empty; else raises a ValueError."""
    if not Path(path).is_file() or not Path(path).stat().st_size:
        expected = f"`{argument}` must be a file that is not empty"
        raise ValueError(f"{expected}. Received: {argument}={str(path)!r}")
    return Path(path)


def existing_folder(argument: str, path: str | Path) -> Path:
    """Returns a path if it is a folder; else raises a ValueError."""
    if not Path(path).is_dir():
        raise ValueError(f"`{argument}` must be a folder. Received: {argument}={str(path)!r}")
    return Path(path)


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Finds the files of a folder, broken links and special files included.

    Files below a hidden folder are hidden too, such as the copies in `.ipynb_checkpoints`, and so
    is what a system left there, such as `__MACOSX`. `**` does not follow links to folders: a link
    to a parent would never end.

    Args:
        folder: the folder. Its own path may have hidden parts.
        pattern: a pattern of paths in it, such as `"**/*.mrg"`.

    Returns:
        The paths, sorted.
    """
    paths = (path for path in folder.glob(pattern) if not _is_hidden(path.relative_to(folder)))
    return sorted(path for path in paths if not path.is_dir())


def find_folders(folder: Path) -> list[Path]:
    """Finds the folders that stand in a folder, sorted, without those that `find_files` hides."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir()
        and not _is_hidden(Path(path.name))
        # A link back to the folder, or to one above it, would hold the files of all the others.
        and not folder.resolve().is_relative_to(path.resolve())
    )


def _is_hidden(path: Path) -> bool:
    """Returns whether a part of a relative path is hidden, or litter of a system."""
    return any(part.startswith(".") or part.lower() in _LITTER for part in path.parts)


def why_outside(folder: str | Path, path: str) -> str:
    """Returns `"reason: message"` if a path that a table names leads out of a folder, else `""`.

    It may lead out by `..`, as an absolute path, or by a link.
    """
    inside = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
    # Links last: what they lead to is not looked at otherwise, and only a file could be read.
    if inside and os.path.isfile(path):
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    if inside:
        return ""
    return f"outside the folder: a file must be below {folder}. Received: {path}"


def rows_below(
    folder: Path, rows: Callable[[], Iterable[tuple[str, str, str, str]]]
) -> Callable[[], Iterable[tuple[str, str, str, str]]]:
    """Turns names of files in `inputs` into paths, and refuses those that lead out of the folder.

    Args:
        folder: the folder.
        rows: as for `dataset_of_rows`.

    Returns:
        A function like `rows`.
    """

    def below():
        for name, text, place, problem in rows():
            # A table from elsewhere may name any file, by `..` or an absolute path.
            path = os.path.join(folder, name)
            outside = why_outside(folder, path)
            yield "" if outside else path, text, place, problem or outside

    return below


def dataset_of_rows(rows: Callable[[], Iterable[tuple[str, str, str, str]]]) -> tf.data.Dataset:
    """Makes a data set of strings from Python tuples, lazily.

    Args:
        rows: function that starts a pass and gives `(inputs, targets, source, problem)` for each
            example.

    Returns:
        A `tf.data.Dataset` of `{"inputs", "targets", "source", "problem"}`.
    """

    def blocks():
        iterator = iter(rows())
        while block := list(itertools.islice(iterator, _BLOCK)):
            # Paths may hold bytes that are not UTF-8, which Python keeps as surrogates.
            columns = ([cell.encode("utf-8", "surrogateescape") for cell in c] for c in zip(*block))
            yield {key: np.array(c, object) for key, c in zip(_KEYS, columns, strict=True)}

    signature = {key: tf.TensorSpec((None,), tf.string) for key in _KEYS}
    return tf.data.Dataset.from_generator(blocks, output_signature=signature).unbatch()


def with_contents(paths: tf.data.Dataset, max_bytes: int) -> tf.data.Dataset:
    """Replaces the path in `inputs` by the bytes of the file, or says in `problem` why not.

    Args:
        paths: data set of `{"inputs": path, "problem", ...}`. A problem that is already there
            stays.
        max_bytes: the most bytes of a file.
    """

    def read_file(path, problem):
        return _read(path, problem, max_bytes)

    @tf.autograph.experimental.do_not_convert
    def read(row):
        # Not `tf.io.read_file`, which would end the whole pass with an error where a file is gone.
        content, problem = in_python(read_file, [row["inputs"], row["problem"]], (_STRING, _STRING))
        return {**row, "inputs": content, "problem": problem}

    return paths.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _read(path: bytes, problem: bytes, max_bytes: int) -> tuple[bytes, bytes]:
    try:
        return read_regular(path, max_bytes), problem
    except (OSError, ValueError) as error:  # a ValueError: the path has a NUL character
        expected = f"{UNREADABLE}: a file must be readable"
        if getattr(error, "errno", None) == errno.EFBIG:
            expected = f"too large: a file must have at most {max_bytes} bytes"
    return b"", problem or f"{expected}. Received: ".encode() + path
