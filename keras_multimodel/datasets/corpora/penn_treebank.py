"""Trees as Penn Treebank files have them, as trees on one line.

A folder of Penn Treebank files."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_multimodel.data.encoding.bad_examples import BadExampleError
from keras_multimodel.data.preprocessing.trees import delinearize, linearize
from keras_multimodel.datasets.corpora.files import existing_folder, lines

_WORD = re.compile(r"\(\s*[^\s()]+\s+([^\s()]+)\s*\)")
_TRACE = "-NONE-"


def split_trees(text: str) -> Iterator[tuple[int, str]]:
    """Splits a text into its trees, and into what is none: text between, brackets too many.

    Args:
        text: trees in brackets, each over any number of lines.

    Yields:
        tuple[int, str]: the number of the line from 0, and the piece. The last may not close.
    """
    depth, start = 0, 0

    def piece(end):
        skipped = len(text[start:end]) - len(text[start:end].lstrip())
        return text.count("\n", 0, start + skipped), text[start:end].strip()

    for bracket in re.finditer(r"[()]", text):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 1 and bracket[0] == "(" and text[start : bracket.start()].strip():
            yield piece(bracket.start())
        if depth == 1 and bracket[0] == "(":
            start = bracket.start()
        elif depth <= 0:
            yield piece(bracket.end())
            depth, start = 0, bracket.end()
    if text[start:].strip():
        yield piece(len(text))


def one_line(tree: str, function_tags: bool, traces: bool) -> tuple[str, str]:
    """Turns a tree into its words and the same tree on one line, without an empty outer bracket.

    Args:
        tree: a tree in brackets.
        function_tags: whether labels of phrases keep what follows the category.
        traces: whether empty elements stay.

    Returns:
        The words, separated by spaces, and the tree.

    Raises:
        BadExampleError: it is no whole tree, or has no word.
    """
    words = iter(_WORD.findall(tree))
    kept_symbols: list[str] = []
    kept_words: list[str] = []
    for symbol in linearize(tree):
        if symbol[0] == ")" and kept_symbols[-1].startswith("("):
            kept_symbols.pop()  # a phrase of traces only
        elif symbol[0] in "()":
            kept_symbols.append(symbol if function_tags else _category(symbol))
        else:
            word = next(words)
            if traces or symbol != _TRACE:
                kept_symbols.append(symbol)
                kept_words.append(word)
    if not kept_words:
        raise BadExampleError("empty", f"`tree` must have a word. Received: tree={tree!r}")
    return " ".join(kept_words), delinearize(_without_outer(kept_symbols), kept_words)


def _category(symbol):
    bracket, label = symbol[0], symbol[1:]
    return symbol if label.startswith("-") else bracket + re.split("[-=]", label)[0]


def _without_outer(symbols):
    while symbols[0] == "(" and _is_one(symbols[1:-1]):
        symbols = symbols[1:-1]
    return symbols


def _is_one(symbols):
    """Returns whether symbols are one phrase."""
    depth = 0
    for index, symbol in enumerate(symbols):
        depth += {"(": 1, ")": -1}.get(symbol[0], 0)
        if depth == 0:
            return index == len(symbols) - 1
    return False


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
