"""Tables as people have them: rows of several kinds of columns, with gaps."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_multimodel.argument_checks import inner_share, integer, name_list, one_of
from keras_multimodel.data.encoding.bad_examples import BadExamples
from keras_multimodel.data.encoding.encode import encode
from keras_multimodel.data.preprocessing.audio import AudioPreprocessor
from keras_multimodel.data.preprocessing.categories import (
    CategoryPreprocessor,
    LabelsPreprocessor,
)
from keras_multimodel.data.preprocessing.images import ImagePreprocessor
from keras_multimodel.data.preprocessing.numbers import NumberPreprocessor, SeriesPreprocessor
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor
from keras_multimodel.data.preprocessing.text import train_text_preprocessor
from keras_multimodel.data.preprocessing.text_of import text_of
from keras_multimodel.data.raw_table import RawTable, read_table
from keras_multimodel.gaps import is_gap
from keras_multimodel.regular_files import read_regular

KINDS = ("image", "audio", "text", "number", "series", "category", "labels")
_SEPARATOR = "|"  # between labels
_MAX_BYTES = 1 << 26  # of one image or sound


class Table:
    """Rows with a kind for each column; `kmm.data.table` returns it.

    Args:
        raw: the table as it was read.
        columns: column -> one of `KINDS`; also an attribute.
    """

    def __init__(self, raw: RawTable, columns: Mapping[str, str]):
        self.raw = raw
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(self.raw.places)

    def preprocessors(
        self,
        image_size: tuple[int, int] = (32, 32),
        vocabulary_size: int = 1000,
        model_type: str = "char",
        logarithm: str | Sequence[str] = (),
    ) -> dict[str, Preprocessor]:
        """Returns a preprocessor for each column, fitted to the table. Use training rows only.

        Args:
            image_size: height and width of images.
            vocabulary_size: ids of a text column, see `train_text_preprocessor`.
            model_type: how texts are cut, see `train_text_preprocessor`.
            logarithm: a column of numbers or series, or several, of which the logarithm is taken.

        Raises:
            ValueError: a column has no value that is known, or `logarithm` names another kind.
        """
        numeric = [c for c, kind in self.columns.items() if kind in ("number", "series")]
        logarithm = name_list("logarithm", logarithm)
        if not set(logarithm) <= set(numeric):
            expected = f"`logarithm` must be columns of numbers or series, of {numeric}"
            raise ValueError(f"{expected}. Received: logarithm={logarithm!r}")
        found: dict[str, Preprocessor] = {}
        widths = self._widths()
        for column, kind in self.columns.items():
            known = self._known(column, widths)
            if not known:
                expected = f"Column {column!r} must have a value in some row"
                raise ValueError(f"{expected}. Received: {len(self)} rows without")
            if kind == "image":
                found[column] = ImagePreprocessor(image_size)
            elif kind == "audio":
                found[column] = AudioPreprocessor()
            elif kind == "text":
                found[column] = train_text_preprocessor(known, vocabulary_size, model_type)
            elif kind == "number":
                found[column] = NumberPreprocessor.fit(known, column in logarithm)
            elif kind == "series":
                found[column] = SeriesPreprocessor.fit(known, column in logarithm)
            elif kind == "category":
                found[column] = CategoryPreprocessor(sorted(set(known)), numbers_are_names=True)
            else:
                names = {name.strip() for cell in known for name in cell.split(_SEPARATOR)}
                found[column] = LabelsPreprocessor(sorted(names - {""}), _SEPARATOR)
        return found

    def split(
        self, test: float = 0.1, seed: int = 0, by: str | Sequence[str] = ()
    ) -> tuple["Table", "Table"]:
        """Splits the rows into two tables, for training and for testing.

        As for `kmm.data.split`, what is in a row decides where it goes: equal rows stay together.

        Args:
            test: share of the rows that go to the second table on average, between 0 and 1.
            seed: another seed, another split.
            by: the columns that decide, such as that of a customer, whose rows are to stay
                together; by default all that have a kind.

        Raises:
            ValueError: `test` is not between 0 and 1, `by` is no column, or no row is left on one
                of the sides.

        Example:

        ```python
        shop = {"title": ["red hat", "a shoe", "hat"], "price": [9.0, None, 8.0]}
        rows = kmm.data.table(shop, {"title": "text", "price": "number"})
        train, test = rows.split(0.5)
        print(len(train), len(test))
        ```
        """
        limit = inner_share("test", test) * 2**64
        key = repr(integer("seed", seed)).encode()
        columns = name_list("by", by) or list(self.columns)
        unknown = [name for name in columns if name not in self.raw.values]
        if unknown:
            expected = f"`by` must be columns of the table, of {list(self.raw.values)}"
            raise ValueError(f"{expected}. Received: {unknown[0]!r}")
        sides: tuple[list[int], list[int]] = ([], [])
        for i in range(len(self)):
            row = hashlib.blake2b(key, digest_size=8)
            for column in columns:
                row.update(_bytes(self.raw.values[column][i]) + b"\0")
            sides[int.from_bytes(row.digest(), "big") < limit].append(i)
        if not all(sides):
            expected = "`test` must leave rows on both sides"
            raise ValueError(f"{expected}. Received: test={test!r} of {len(self)} rows")
        train, held_out = (Table(self.raw.take(rows), self.columns) for rows in sides)
        return train, held_out

    def dataset(self, inputs: str | Sequence[str], targets: str | Sequence[str]) -> tf.data.Dataset:
        """Returns the rows that have one of the targets as raw examples.

        Args:
            inputs: a column, or several.
            targets: a column, or several.

        Returns:
            A `tf.data.Dataset` of `{"inputs": {column: value}, "targets": {column: value},
            "source", "problem"}`, as `kmm.data.encode` takes it. Images and sounds are read as the
            rows pass. A value that is missing is an empty text, NaN, or a series without steps.

        Raises:
            ValueError: a column is unknown, or no row has a target.
        """
        inputs = self._check("inputs", inputs)
        targets = self._check("targets", targets)
        kept = [i for i in range(len(self)) if any(self._has(i, column) for column in targets)]
        if not kept:
            expected = f"`targets` must have a value in some row: {targets}"
            raise ValueError(f"{expected}. Received: {len(self)} rows without")
        columns = {"inputs": inputs, "targets": targets}
        widths = self._widths()

        def rows() -> Iterator[dict]:
            for i in kept:
                problem = self.raw.problems[i]
                row: dict = {"inputs": {}, "targets": {}}
                for side, names in columns.items():
                    for column in names:
                        value, wrong = self._cell(i, column, widths)
                        row[side][column] = value
                        problem = problem or wrong
                yield {**row, "source": self.raw.places[i], "problem": problem}

        signature: dict = {
            side: {column: _spec(self.columns[column], widths.get(column)) for column in names}
            for side, names in columns.items()
        }
        signature |= {key: tf.TensorSpec((), tf.string) for key in ("source", "problem")}
        dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
        return dataset.apply(tf.data.experimental.assert_cardinality(len(kept)))

    def _check(self, argument, given) -> list[str]:
        given = name_list(argument, given)
        for name in given:
            if name not in self.columns:
                expected = f"`{argument}` must be columns of the table, of {list(self.columns)}"
                raise ValueError(f"{expected}. Received: {name!r}")
        return given

    def _has(self, i, column):
        return bool(self.raw.problems[i]) or not is_gap(self.raw.values[column][i])

    def _known(self, column, widths) -> list[Any]:
        """Returns the values of a column that are there and of its kind."""
        cells = [self._cell(i, column, widths, read=False) for i in range(len(self))]
        values = zip(self.raw.values[column], cells)
        return [cell for raw, (cell, problem) in values if not is_gap(raw) and not problem]

    def _widths(self) -> dict[str, int]:
        """Returns the channels of each column of series, by its first one."""
        series = [column for column, kind in self.columns.items() if kind == "series"]
        known = {column: self._known(column, {}) for column in series}
        return {column: found[0].shape[1] if found else 1 for column, found in known.items()}

    def _cell(self, i, column, widths, read=True) -> tuple[Any, str]:
        """Returns a value as a data set has it, and what is wrong with it or `""`."""
        raw, kind = self.raw.values[column][i], self.columns[column]
        missing: Any = "" if kind in _STRINGS else np.float32(np.nan)
        if kind == "series":
            missing = np.zeros((0, widths.get(column, 1)), "float32")
        if is_gap(raw):
            return missing, ""
        try:
            if kind in ("image", "audio"):
                return _content(raw, self.raw.folder) if read else "file", ""
            value = _CONVERSIONS[kind](raw)
            if kind == "series" and value.shape[1] != widths.get(column, value.shape[1]):
                width = widths[column]
                raise ValueError(f"it has {value.shape[1]} channels, the first one {width}")
            return value, ""
        except (TypeError, ValueError, OSError) as error:
            reason = "unreadable" if isinstance(error, OSError) else f"no {kind}"
            message = f"`{column}` must be {_EXPECTED[kind]}. Received: {_short(raw)} ({error})"
            return missing, f"{reason}: {message}"


def table(source: Any, columns: Mapping[str, str], folder: str | Path | None = None) -> Table:
    """Reads a table, whose rows may have gaps.

    | kind | what a cell may be |
    |---|---|
    | `"image"`, `"audio"` | a path, relative to the table; the bytes of a file; pixels |
    | `"text"`, `"category"` | a text or a number |
    | `"number"` | a number, or a text that is one |
    | `"series"` | a list of numbers or of lists of numbers, also as JSON |
    | `"labels"` | a list of names, or names separated by `|` |

    A cell is missing where it is empty, None or NaN. What is wrong in a cell makes its row a bad
    example, which `encode` and `rows_to_tasks` name by row, column and value.

    Args:
        source: the path of a CSV, TSV or Parquet file with a head, a pandas DataFrame, or a dict
            from columns to lists.
        columns: column -> kind; other columns are left out. See `infer_columns`.
        folder: what paths of files are relative to; by default the folder of the table.

    Returns:
        A `Table`.

    Raises:
        ValueError: the table has no row or lacks a column, a kind is unknown, or `source` is none
            of the above.
        ModuleNotFoundError: a Parquet file needs pandas and pyarrow.

    Example:

    ```python
    shop = {"title": ["red hat", "a shoe", "hat"], "price": [9.0, None, 8.0]}
    rows = kmm.data.table(shop, {"title": "text", "price": "number"})
    found = rows.preprocessors()
    title = kmm.layers.TextModality(found["title"].vocabulary_size, 8, preprocessor=found["title"])
    price = kmm.layers.NumberModality(8, preprocessor=found["price"])
    data = kmm.data.rows_to_tasks(rows, [kmm.Task("price", {"title": title}, price)])
    print(len(list(data["price"])))  # 2: one row has no price
    ```
    """
    raw = read_table(source, folder)
    if not isinstance(columns, Mapping) or not columns:
        expected = "`columns` must map columns to kinds"
        raise ValueError(f"{expected}. Received: columns={columns!r}")
    for name, kind in columns.items():
        if name not in raw.values:
            expected = f"`columns` must be of the table's: {list(raw.values)}"
            raise ValueError(f"{expected}. Received: {name!r}")
        one_of(f"columns[{name!r}]", kind, KINDS)
    return Table(raw, columns)


def rows_to_tasks(
    rows: Table,
    tasks: Any,
    columns: Mapping[str, str] | None = None,
    cache: bool = False,
    on_bad: str = "raise",
    report: BadExamples | None = None,
) -> dict[str, tf.data.Dataset]:
    """Makes a data set for each task from one table, or for all tasks on the same rows.

    The parts of a task are columns by their names, and its target is the column of its own name. A
    task gets the rows that have its target; tasks with the same `rows` get those that have one.

    Args:
        rows: the table.
        tasks: a `Task` with parts, or a list of them.
        columns: task -> column of its target, where that has another name.
        cache: as for `kmm.data.encode`.
        on_bad: as for `kmm.data.encode`.
        report: as for `kmm.data.encode`.

    Returns:
        Name of the rows -> encoded examples, for `kmm.data.mix`.

    Raises:
        ValueError: a task does not read parts, or a part or target is no column.
    """
    tasks = list(tasks) if isinstance(tasks, list | tuple) else [tasks]
    renamed: dict[str, str] = dict(columns or {})
    if not set(renamed) <= {task.name for task in tasks}:
        expected = f"`columns` must have keys among {[task.name for task in tasks]}"
        raise ValueError(f"{expected}. Received: columns={columns}")
    groups: dict[str, list] = {}
    for task in tasks:
        if not task.has_parts:
            expected = f"`tasks` must read parts: Task({task.name!r}, inputs={{column: net}})"
            raise ValueError(f"{expected}. Received: inputs={task.inputs!r}")
        groups.setdefault(task.rows, []).append(task)
    found = {}
    for name, of_rows in groups.items():
        named = {task.name: str(renamed.get(task.name, task.name)) for task in of_rows}
        raw = rows.dataset(list(of_rows[0].parts), list(named.values()))
        by_task = raw.map(_by_task(named))
        one = of_rows[0] if len(of_rows) == 1 and of_rows[0].rows == of_rows[0].name else of_rows
        if one is not of_rows:
            column = named[of_rows[0].name]
            by_task = raw.map(_single(column))
        found[name] = encode(by_task, one, cache, on_bad, report)
    return found


def with_one_target(task: str, raw: tf.data.Dataset) -> tf.data.Dataset:
    """Returns raw examples of one target: of rows, those that have the target of the task.

    Args:
        task: the name of the task, which is that of its target if the rows have several.
        raw: raw examples, or rows as `Table.dataset` returns them.

    Raises:
        ValueError: the rows have several targets and none of this name.
    """
    targets = raw.element_spec["targets"] if isinstance(raw.element_spec, dict) else None
    if not isinstance(targets, dict):
        return raw
    column = task if task in targets or len(targets) > 1 else next(iter(targets))
    if column not in targets:
        expected = f"`data` must have a target {task!r} for the task of this name"
        raise ValueError(f"{expected}. Received: targets={list(targets)}")

    def is_there(row):
        target = row["targets"]
        return target != "" if target.dtype == tf.string else not tf.math.is_nan(target)

    return raw.map(_single(column)).filter(is_there)


def _by_task(named) -> Callable:
    return lambda row: {**row, "targets": {t: row["targets"][c] for t, c in named.items()}}


def _single(column) -> Callable:
    return lambda row: {**row, "targets": row["targets"][column]}


def _content(raw, folder):
    """Returns the bytes of a file, or of an array of pixels as a PNG file."""
    if isinstance(raw, bytes):
        return raw
    if isinstance(raw, str | Path):
        return read_regular(folder / raw, _MAX_BYTES)
    pixels = np.asarray(raw)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not 0 < channels < 5:
        raise ValueError("an array of pixels has the dtype uint8, 2 or 3 axes, 1 to 4 channels")
    return tf.io.encode_png(pixels if pixels.ndim == 3 else pixels[..., None]).numpy()


def _bytes(raw):
    """Returns a cell as bytes, equal for equal cells: 3 and 3.0, which a column with a gap has."""
    if is_gap(raw):
        return b""
    if isinstance(raw, bytes):
        return raw
    if isinstance(raw, np.ndarray):
        return raw.tobytes()
    return (
        repr(raw).encode() if isinstance(raw, list | tuple | dict | set) else text_of(raw).encode()
    )


def _number(raw):
    number = np.float64(raw)
    if np.isinf(number):
        raise ValueError("it is not finite")
    return number


def _labels(raw):
    if isinstance(raw, str | bytes):
        return text_of(raw)
    return _SEPARATOR.join(map(text_of, raw))


def _series(raw):
    steps = np.asarray(json.loads(raw) if isinstance(raw, str) else list(raw), "float32")
    if steps.ndim not in (1, 2):
        raise ValueError(f"it has {steps.ndim} axes")
    if np.isinf(steps).any():
        raise ValueError("it is not finite")
    return steps[:, None] if steps.ndim == 1 else steps


def _spec(kind, channels):
    if kind == "series":
        return tf.TensorSpec((None, channels), tf.float32)
    return tf.TensorSpec((), tf.string if kind in _STRINGS else tf.float64)


def _short(raw):
    text = repr(raw)
    return text if len(text) < 60 else f"{text[:57]}..."


_STRINGS = ("image", "audio", "text", "category", "labels")
_CONVERSIONS: dict[str, Callable] = {
    "text": text_of,
    "category": text_of,
    "number": _number,
    "series": _series,
    "labels": _labels,
}
_EXPECTED = {
    "image": "an image: a path, bytes, or uint8 pixels",
    "audio": "a sound: a path or bytes",
    "text": "a text",
    "category": "the name of a class",
    "number": "a number",
    "series": "a list of numbers",
    "labels": "names of labels",
}
