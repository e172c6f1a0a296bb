"""A table of pairs."""

import itertools
from pathlib import Path

import tensorflow as tf

from keras_multimodel.datasets.corpora.files import existing_file, lines

_LOOKED_AT = 100


def tsv_pairs(path: str | Path, inputs: int | str = 0, targets: int | str = 1) -> tf.data.Dataset:
    """Reads two columns of a text file whose columns are separated by tabs.

    The file is UTF-8 without quoting and is read lazily. Lines of white space are left out. A row
    that lacks one of the columns is an example with a `problem`, which `kmm.data.encode` raises or
    skips.

    Args:
        path: the file.
        inputs: the column of the inputs: its number from 0, or its name in the first line.
        targets: the column of the targets, in the same way.

    Returns:
        A `tf.data.Dataset` of strings `{"inputs", "targets", "source", "problem"}` in the order of
        the file; `source` is path and line.

    Raises:
        ValueError: there is no such file, it is empty, the columns are not two numbers or two
            names, the first line lacks a name, or none of the first 100 rows has the columns.

    Example:

    ```python
    pairs = kmm.datasets.tsv_pairs("pairs.tsv")
    speech = kmm.datasets.tsv_pairs("questions.tsv", inputs="question", targets="answer")
    ```
    """
    path = existing_file("path", path)
    columns = {"inputs": inputs, "targets": targets}
    named = _check_columns(columns)
    if named:
        columns = _numbers(path, columns)
    _check_rows(path, columns)
    needed = max(columns.values()) + 1

    @tf.autograph.experimental.do_not_convert
    def to_example(place, line):
        cells = tf.strings.split(line, "\t")
        count = tf.size(cells)
        problem = tf.strings.join(
            [f"missing column: a row must have {needed} columns. Received: ", _text(count)]
        )
        cells = tf.concat([cells, [""] * needed], axis=0)
        return {
            **{side: cells[column] for side, column in columns.items()},
            "source": place,
            "problem": tf.where(count < needed, problem, ""),
        }

    return lines(str(path)).skip(int(named)).filter(_is_not_blank).map(to_example)


def _check_columns(columns):
    """Returns whether the columns are names."""
    named = [isinstance(column, str) for column in columns.values()]
    numbers = [column for column in columns.values() if not isinstance(column, str)]
    if any(named) != all(named) or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise ValueError(
            "`inputs` and `targets` must be two names, or two numbers from 0. "
            f"Received: inputs={columns['inputs']!r}, targets={columns['targets']!r}"
        )
    return all(named)


def _numbers(path, columns):
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline().rstrip("\r\n").split("\t")
    for side, name in columns.items():
        if name not in header:
            raise ValueError(
                f"`{side}` must be a column of {path}:1: {', '.join(header)}. "
                f"Received: {side}={name!r}"
            )
    return {side: header.index(name) for side, name in columns.items()}


def _check_rows(path, columns):
    needed = max(columns.values()) + 1
    with path.open("rb") as file:
        counts = [line.count(b"\t") + 1 for line in itertools.islice(file, _LOOKED_AT)]
    if max(counts) < needed:
        raise ValueError(
            f"`path` must have rows of at least {needed} columns, separated by tabs. "
            f"Received: {path}:1 with {counts[0]}"
        )


@tf.autograph.experimental.do_not_convert
def _is_not_blank(place, line):
    return tf.strings.length(tf.strings.strip(line)) > 0


def _text(number):
    return tf.strings.as_string(number)
