"""A folder of audio with transcripts."""

from pathlib import Path

import tensorflow as tf

from keras_multimodel.datasets.corpora.files import existing_folder, lines, read_file
from keras_multimodel.datasets.corpora.tsv_pairs import tsv_pairs

_TABLE = "transcripts.tsv"
_LIST = "*.trans.txt"


def audio_folder(folder: str | Path) -> tf.data.Dataset:
    """Reads a folder of FLAC or WAV files with their transcripts, in one of two forms.

    - `transcripts.tsv` in the folder, with the columns `file`, a path from the folder, and `text`.
    - Files `*.trans.txt` at any depth, as LibriSpeech has them: lines of a name, a space and a
      transcript; the audio is `<name>.flac` beside the file. They are read in the order of their
      paths.

    Everything is read lazily. A row without a transcript, or whose audio cannot be read, is an
    example with a `problem`, which `kmm.data.encode` raises or skips.

    Args:
        folder: the folder.

    Returns:
        A `tf.data.Dataset` of strings `{"inputs": bytes of a file, "targets": transcript, "source":
        path and line of the transcript, "problem"}`.

    Raises:
        ValueError: there is no such folder, it has neither form, or the table lacks a column.

    Example:

    ```python
    speech = kmm.datasets.audio_folder("LibriSpeech/train-clean-100")
    ```
    """
    folder = existing_folder("folder", folder)
    if (folder / _TABLE).is_file():
        rows = tsv_pairs(folder / _TABLE, inputs="file", targets="text").map(_in_folder(folder))
    else:
        lists = sorted(str(path) for path in folder.rglob(_LIST))
        if not lists:
            raise ValueError(
                f"`folder` must have a {_TABLE} or files {_LIST}. Received: folder={str(folder)!r}"
            )
        rows = tf.data.Dataset.from_tensor_slices(lists).flat_map(_rows_of_list)
    return rows.map(_with_audio, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _in_folder(folder):
    @tf.autograph.experimental.do_not_convert
    def with_path(row):
        return {**row, "inputs": tf.strings.join([f"{folder}/", row["inputs"]])}

    return with_path


@tf.autograph.experimental.do_not_convert
def _rows_of_list(path):
    folder = tf.strings.regex_replace(path, "[^/\\\\]*$", "")

    @tf.autograph.experimental.do_not_convert
    def to_row(place, line):
        parts = tf.strings.split(tf.strings.strip(line), " ", maxsplit=1)
        problem = "missing column: a line must have a name, a space and a transcript. Received: "
        return {
            "inputs": tf.strings.join([folder, parts[0], ".flac"]),
            "targets": tf.concat([parts, [""]], axis=0)[1],
            "source": place,
            "problem": tf.where(tf.size(parts) < 2, tf.strings.join([problem, line]), ""),
        }

    return lines(path).filter(_is_not_blank).map(to_row)


@tf.autograph.experimental.do_not_convert
def _is_not_blank(place, line):
    return tf.strings.length(tf.strings.strip(line)) > 0


@tf.autograph.experimental.do_not_convert
def _with_audio(row):
    content, unreadable = read_file(row["inputs"])
    problem = tf.where(tf.equal(row["problem"], ""), unreadable, row["problem"])
    return {**row, "inputs": content, "problem": problem}
