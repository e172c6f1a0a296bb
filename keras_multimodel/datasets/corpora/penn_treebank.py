"""A folder of Penn Treebank files."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_multimodel.data.bad_example_error import BadExampleError
from keras_multimodel.datasets.corpora.files import existing_folder, lines
from keras_multimodel.datasets.corpora.penn_trees import one_line, split_trees

_KEYS = ("inputs", "targets", "source", "problem")


def penn_treebank(
    folder: str | Path,
    function_tags: bool = False,
    traces: bool = False,
    pattern: str = "**/*.mrg",
) -> tf.data.Dataset:
    """Reads trees in brackets from the files of a folder, such as the Penn Treebank's `.mrg`.

    A tree begins where a line begins with a bracket; its other lines are indented. A line may also
    hold several whole trees. The empty bracket around a tree is left out. Files are read lazily, in
    the order of their paths. What is no whole tree is an example with a `problem`, which
    `kmm.data.encode` raises or skips; the next tree is read again.

    Marcus et al. 1993, "Building a Large Annotated Corpus of English: The Penn Treebank". Licence:
    that of the Linguistic Data Consortium (LDC99T42).

    Args:
        folder: the folder.
        function_tags: whether labels of phrases keep what follows the category, as in `NP-SBJ-1`.
        traces: whether empty elements (`-NONE-`) stay. Without them, phrases that are empty then
            are left out too.
        pattern: which files of the folder are read.

    Returns:
        A `tf.data.Dataset` of strings `{"inputs": words, separated by spaces, "targets": tree on
        one line, "source": path and line, "problem"}`.

    Raises:
        ValueError: there is no such folder, or it has no such file.

    Example:

    ```python
    trees = kmm.datasets.penn_treebank("treebank/combined")
    ```
    """
    folder = existing_folder("folder", folder)
    files = sorted(str(path) for path in folder.glob(pattern) if path.is_file())
    if not files:
        raise ValueError(f"`folder` must have files {pattern}. Received: folder={str(folder)!r}")

    def read_block(place, text):
        examples = _examples(place.decode(), text.decode("utf-8"), function_tags, traces)
        rows = [[part.encode("utf-8") for part in example] for example in examples]
        return np.array(rows, dtype=object).reshape(-1, len(_KEYS))

    @tf.autograph.experimental.do_not_convert
    def examples_of_block(place, text):
        table = tf.numpy_function(read_block, [place, text], tf.string, stateful=False)
        return tf.ensure_shape(table, (None, len(_KEYS)))

    blocks = tf.data.Dataset.from_tensor_slices(files).flat_map(_blocks)
    tables = blocks.map(examples_of_block, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return tables.unbatch().map(_to_example)


def _examples(place, text, function_tags, traces):
    """Reads the trees of a block of lines."""
    path, _, first_line = place.rpartition(":")
    for line, piece in split_trees(text):
        words, tree, problem = "", "", ""
        try:
            words, tree = one_line(piece, function_tags, traces)
        except BadExampleError as error:
            problem = f"{error.reason}: {error}"
        yield words, tree, f"{path}:{int(first_line) + line}", problem


@tf.autograph.experimental.do_not_convert
def _blocks(path):
    """Joins the lines of a file to blocks, each from a line that begins with a bracket on."""

    @tf.autograph.experimental.do_not_convert
    def step(block, placed_line):
        place, line = placed_line
        begins = tf.strings.regex_full_match(line, r"\(.*")
        is_new = begins | tf.equal(block[1], "")
        grown = tf.strings.join([block[1], "\n", line])
        new = (tf.where(is_new, place, block[0]), tf.where(is_new, line, grown))
        return new, (*block, begins)

    end = tf.data.Dataset.from_tensors((tf.constant(""), tf.constant("(")))
    steps = lines(path).concatenate(end).scan((tf.constant(""), tf.constant("")), step)
    return steps.filter(_is_whole).map(_block)


@tf.autograph.experimental.do_not_convert
def _is_whole(place, text, is_whole):
    return is_whole & (tf.strings.length(tf.strings.strip(text)) > 0)


@tf.autograph.experimental.do_not_convert
def _block(place, text, is_whole):
    return place, text


@tf.autograph.experimental.do_not_convert
def _to_example(row):
    return {key: row[column] for column, key in enumerate(_KEYS)}
