"""A folder of audio with transcripts."""

import functools
import os
from pathlib import Path

import tensorflow as tf

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.preprocessing.text_files import MAX_LINE, read_lines
from keras_multimodel.datasets.corpora.files import (
    MAX_BYTES,
    dataset_of_rows,
    existing_folder,
    find_files,
    rows_below,
    with_contents,
)
from keras_multimodel.datasets.corpora.tsv_pairs import read_pairs

_TABLE = "transcripts.tsv"
_LIST = "*.trans.txt"


def audio_folder(
    folder: str | Path, max_bytes: int = MAX_BYTES, max_line: int = MAX_LINE
) -> tf.data.Dataset:
    """Reads a folder of FLAC or WAV files with their transcripts, in one of two forms.

    - `transcripts.tsv` in the folder, with the columns `file`, a path from the folder, and `text`.
    - Files `*.trans.txt` at any depth, as LibriSpeech has them: lines of a name, a space and a
      transcript; the audio is `<name>.flac` beside the file. They are read in the order of their
      paths.

    Everything is read lazily. A row without a transcript, or whose audio cannot be read or lies
    outside the folder, also by a link, is an example with a `problem`, which `kmm.data.encode`
    raises or skips.

    Args:
        folder: the folder.
        max_bytes: the most bytes of a file of audio.
        max_line: the most characters of a line.

    Returns:
        A `tf.data.Dataset` of strings `{"inputs": bytes of a file, "targets": transcript, "source":
        path and line of the transcript, "problem"}`.

    Raises:
        ValueError: there is no such folder, it has neither form, the table lacks a column, or a
            limit is not positive.

    Example:

    ```python
    with open("transcripts.tsv", "w") as file:
        file.write("file\\ttext\\none.flac\\tOne.\\n")
    speech = kmm.datasets.audio_folder(".")  # or "LibriSpeech/train-clean-100"
    ```
    """
    folder = existing_folder("folder", folder)
    max_bytes = positive_int("max_bytes", max_bytes)
    if (folder / _TABLE).is_file():
        rows = read_pairs(folder / _TABLE, inputs="file", targets="text", max_line=max_line)
    else:
        lists = find_files(folder, f"**/{_LIST}")
        if not lists:
            expected = f"`folder` must have a {_TABLE} or files {_LIST}"
            raise ValueError(f"{expected}. Received: folder={str(folder)!r}")
        rows = functools.partial(_rows_of_lists, folder, lists, positive_int("max_line", max_line))
    return with_contents(dataset_of_rows(rows_below(folder, rows)), max_bytes)


def _rows_of_lists(folder, lists, max_line):
    for path in lists:
        for number, line, problem in read_lines(path, max_line):
            if not problem and not line.strip():
                continue
            name, _, text = line.strip().partition(" ")
            if not problem and not text:
                expected = "a line must have a name, a space and a transcript"
                problem = f"missing column: {expected}. Received: {line}"
            audio = os.path.join(path.parent.relative_to(folder), f"{name}.flac")
            yield audio, text, f"{path}:{number}", problem
