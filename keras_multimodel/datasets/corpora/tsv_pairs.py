"""A table of pairs."""

import collections
import csv
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.preprocessing.text_files import MAX_LINE, Line, read_lines
from keras_multimodel.datasets.corpora.files import dataset_of_rows, existing_file

_LOOKED_AT = 100
_MOST_LINES = 1000  # of one row: after as many, its quote is taken for one that never closes


class _Row(NamedTuple):
    number: int
    cells: list[str]
    problem: str


def tsv_pairs(
    path: str | Path,
    inputs: int | str = 0,
    targets: int | str = 1,
    quoting: bool = False,
    max_line: int = MAX_LINE,
) -> tf.data.Dataset:
    """Reads two columns of a text file whose columns are separated by tabs.

    The file is UTF-8, or UTF-16 or UTF-32 with a byte-order mark, and is read lazily. Rows of white
    space are left out. A row that is not text, is too long, or lacks one of the columns is an
    example with a `problem`, which `kmm.data.encode` raises or skips.

    Args:
        path: the file.
        inputs: the column of the inputs: its number from 0, or its name in the first row.
        targets: the column of the targets, in the same way.
        quoting: whether cells may be quoted as spreadsheets write them: a cell in `"` may hold
            tabs, line ends, and `""` for a quote. Otherwise a quote is a character like any other.
        max_line: the most characters of a line, and of a row that is quoted.

    Returns:
        A `tf.data.Dataset` of strings `{"inputs", "targets", "source", "problem"}` in the order of
        the file; `source` is the path and the line where the row starts.

    Raises:
        ValueError: there is no such file, it is empty, the columns are not two numbers or two
            names, the first row lacks a name, none of the first 100 rows has the columns, or
            `max_line` is not positive.

    Example:

    ```python
    with open("questions.tsv", "w") as file:
        file.write("question\\tanswer\\nWhy?\\tBecause.\\n")
    pairs = kmm.datasets.tsv_pairs("questions.tsv", inputs="question", targets="answer")
    ```
    """
    return dataset_of_rows(read_pairs(path, inputs, targets, quoting, max_line))


def read_pairs(
    path: str | Path,
    inputs: int | str,
    targets: int | str,
    quoting: bool = False,
    max_line: int = MAX_LINE,
) -> Callable[[], Iterator[tuple[str, str, str, str]]]:
    """Returns a function that reads the rows of `tsv_pairs`, after the checks of the arguments."""
    path = existing_file("path", path)
    max_line = positive_int("max_line", max_line)
    columns = {"inputs": inputs, "targets": targets}
    named = all(isinstance(column, str) for column in columns.values())
    if not named and not all(isinstance(n, int) and n >= 0 for n in columns.values()):
        expected = "`inputs` and `targets` must be two names, or two numbers from 0"
        raise ValueError(f"{expected}. Received: inputs={inputs!r}, targets={targets!r}")
    # Read now, so that wrong columns are an error of this call, and not of an epoch that has begun.
    first = list(itertools.islice(_rows(path, quoting, max_line), _LOOKED_AT))
    if named:
        places = _numbers(path, first[0], columns)
    else:
        places = {side: int(number) for side, number in columns.items()}
    # One row that has the columns is enough: the others are bad examples, each with its line.
    needed = max(places.values()) + 1
    if max(len(row.cells) for row in first) < needed:
        raise ValueError(
            f"`path` must have rows of at least {needed} columns, separated by tabs. "
            f"Received: {path}:1 with {first[0].problem or len(first[0].cells)}"
        )

    def rows():
        for number, cells, problem in itertools.islice(
            _rows(path, quoting, max_line), int(named), None
        ):
            if not problem and not any(cell.strip() for cell in cells):
                continue
            if not problem and len(cells) < needed:
                expected = f"a row must have {needed} columns"
                problem = f"missing column: {expected}. Received: {len(cells)}"
            cells = cells + [""] * needed  # a row with a problem has both columns too
            yield cells[places["inputs"]], cells[places["targets"]], f"{path}:{number}", problem

    return rows


def _numbers(path, header, columns):
    names = header.problem or ", ".join(header.cells)
    for side, name in columns.items():
        if name not in header.cells:
            expected = f"`{side}` must be a column of {path}:1: {names}"
            raise ValueError(f"{expected}. Received: {side}={name!r}")
    return {side: header.cells.index(name) for side, name in columns.items()}


def _rows(path: Path, quoting: bool, max_line: int) -> Iterator[_Row]:
    lines = read_lines(path, max_line)
    if quoting:
        return _quoted_rows(lines, max_line)
    return (_Row(n, [] if problem else text.split("\t"), problem) for n, text, problem in lines)


def _quoted_rows(lines: Iterator[Line], max_line: int) -> Iterator[_Row]:
    """Reads rows that may be quoted; one whose quotes are wrong costs its first line only."""
    again: collections.deque[Line] = collections.deque()  # lines that were read ahead in vain
    while True:
        taken: list[Line] = []

        def texts():
            while len(taken) < _MOST_LINES and sum(len(line.text) for line in taken) <= max_line:
                line = again.popleft() if again else next(lines, None)
                if line is None:
                    return
                taken.append(line)
                yield f"{line.text}\n"

        cells, problem = [], ""
        try:
            cells = next(csv.reader(texts(), delimiter="\t", strict=True), cells)
        except csv.Error as error:
            again.extendleft(reversed(taken[1:]))
            problem = f"broken quotes: a quoted cell must close. Received: {error}"
            del taken[1:]
        if not taken:
            return
        problem = next((line.problem for line in taken if line.problem), problem)
        yield _Row(taken[0].number, [] if problem else cells, problem)
