"""Reads tables from files, DataFrames and dicts, without looking at their cells."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}


class RawTable(NamedTuple):
    """A table as it was read.

    Attributes:
        values: column -> its values, one for each row.
        places: for each row, where it is, for messages.
        problems: for each row, what is wrong with it as a whole, or `""`.
        folder: what paths in the table are relative to.
    """

    values: dict[str, list]
    places: list[str]
    problems: list[str]
    folder: Path

    def take(self, rows: list[int]) -> "RawTable":
        """Returns the table of some rows."""
        values = {name: [column[i] for i in rows] for name, column in self.values.items()}
        places, problems = ([each[i] for i in rows] for each in (self.places, self.problems))
        return RawTable(values, places, problems, self.folder)


def read_table(source: Any, folder: str | Path | None = None) -> RawTable:
    """Reads a table without looking at its cells; see `table`."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix.lower() == ".parquet":
            return _from_frame(_read_parquet(path), folder or path.parent)
        return _read_delimited(path, folder or path.parent)
    if hasattr(source, "columns") and hasattr(source, "index"):
        return _from_frame(source, folder or ".")
    if not isinstance(source, Mapping) or len({len(values) for values in source.values()}) != 1:
        expected = "`source` must be a path, a DataFrame, or a dict of columns of one length"
        raise ValueError(f"{expected}. Received: {type(source).__name__}")
    return _checked({name: list(values) for name, values in source.items()}, folder or ".")


def _from_frame(frame, folder):
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise ValueError(f"`source` must have different columns. Received: {names}")
    values = {name: frame.iloc[:, i].tolist() for i, name in enumerate(names)}
    return _checked(values, folder, [f"row {index}" for index in frame.index])


def _checked(values, folder, places=None, problems=None):
    rows = len(next(iter(values.values()))) if values else 0
    if not rows:
        raise ValueError("`source` must have at least one row and one column. Received: none")
    places = [f"row {i}" for i in range(rows)] if places is None else places
    return RawTable(values, places, problems or [""] * rows, Path(folder))


def _read_parquet(path):
    try:
        import pandas
    except ModuleNotFoundError as error:
        message = "A Parquet file needs pandas: pip install pandas pyarrow"
        raise ModuleNotFoundError(message) from error
    return pandas.read_parquet(path)


def _read_delimited(path, folder):
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is None or not path.is_file():
        expected = f"`source` must be a file that ends in {', '.join(_DELIMITERS)} or .parquet"
        raise ValueError(f"{expected}. Received: source={str(path)!r}")
    cells, places, problems = [], [], []
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            header = next(reader, [])
            for row in reader:
                if not row:
                    continue
                number = len(row)
                wrong = f"a row must have {len(header)} columns. Received: {number}"
                problems.append("" if number == len(header) else f"missing column: {wrong}")
                cells.append((row + [""] * len(header))[: len(header)])
                places.append(f"{path}:{reader.line_num}")
        except (UnicodeDecodeError, csv.Error) as error:
            expected = "`source` must be a table in UTF-8"
            received = f"{path}, behind line {reader.line_num} ({error})"
            raise ValueError(f"{expected}. Received: {received}") from error
    if len(set(header)) < len(header):
        raise ValueError(f"`source` must have different columns. Received: {header}")
    columns = {name: [row[i] for row in cells] for i, name in enumerate(header)}
    return _checked(columns, folder, places, problems)
