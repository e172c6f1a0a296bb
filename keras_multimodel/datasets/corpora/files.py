"""What the loaders of folders and files share."""

from pathlib import Path

import tensorflow as tf

from keras_multimodel.data.encoding.bad_examples import or_else


def existing_file(argument: str, path: str | Path) -> Path:
    """Returns a path if it is a file that is not empty; else raises a ValueError."""
    if not Path(path).is_file() or not Path(path).stat().st_size:
        raise ValueError(
            f"`{argument}` must be a file that is not empty. Received: {argument}={str(path)!r}"
        )
    return Path(path)


def existing_folder(argument: str, path: str | Path) -> Path:
    """Returns a path if it is a folder; else raises a ValueError."""
    if not Path(path).is_dir():
        raise ValueError(f"`{argument}` must be a folder. Received: {argument}={str(path)!r}")
    return Path(path)


def lines(path: str | tf.Tensor) -> tf.data.Dataset:
    """Reads the lines of a text file lazily, as `(place, line)` with a place like `"a.tsv:17"`."""

    @tf.autograph.experimental.do_not_convert
    def placed(number, line):
        place = tf.strings.join([path, ":", tf.strings.as_string(number + 1)])
        return place, tf.strings.regex_replace(line, "^\ufeff", "")

    return tf.data.TextLineDataset(path).enumerate().map(placed)


def read_file(path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the bytes of a file, and what was wrong with it; `""` if nothing."""
    problem = tf.strings.join(["unreadable file: a file must be readable. Received: ", path])

    @tf.autograph.experimental.do_not_convert
    def read(path):
        return tf.io.read_file(path), ""

    return or_else(read, path, ("", problem))
