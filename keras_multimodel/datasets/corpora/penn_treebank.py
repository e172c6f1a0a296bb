"""Trees from Penn Treebank files, each on one line."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.encoding.bad_examples import BadExampleError
from keras_multimodel.data.preprocessing.text_files import MAX_LINE, Line, read_lines
from keras_multimodel.data.preprocessing.trees import delinearize, is_one_node, parse
from keras_multimodel.datasets.corpora.files import dataset_of_rows, existing_folder, find_files

_TRACE = "-NONE-"


def split_trees(text: str) -> Iterator[tuple[int, str]]:
    """Splits a text into its trees and the pieces that are none: text between, surplus brackets.

    Args:
        text: trees in brackets, each over any number of lines.

    Yields:
        tuple[int, str]: the number of the line from 0, and the piece. The last may not close.
    """
    depth, start = 0, 0
    counted, line = 0, 0  # line ends are counted up to here: from 0 at each piece would take hours

    def piece(end):
        nonlocal counted, line
        first = start + len(text[start:end]) - len(text[start:end].lstrip())
        counted, line = first, line + text.count("\n", counted, first)
        return line, text[start:end].strip()

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
    symbols, words = parse(tree)
    word = iter(words)
    kept_symbols: list[str] = []
    kept_words: list[str] = []
    for symbol in symbols:
        if symbol[0] == ")" and kept_symbols[-1].startswith("("):
            kept_symbols.pop()  # a phrase of traces only
        elif symbol[0] in "()":
            kept_symbols.append(symbol if function_tags else _category(symbol))
        else:
            leaf = next(word)
            if traces or symbol != _TRACE:
                kept_symbols.append(symbol)
                kept_words.append(leaf)
    if not kept_words:
        raise BadExampleError("empty", f"`tree` must have a word. Received: tree={tree!r}")
    return " ".join(kept_words), delinearize(_without_outer(kept_symbols), kept_words)


def _category(symbol):
    # The dash ends a category, but begins labels such as `-NONE-` and `-LRB-`.
    bracket, label = symbol[0], symbol[1:]
    return symbol if label.startswith("-") else bracket + re.split("[-=]", label)[0]


def _without_outer(symbols):
    # Around several trees the bracket stays: without it they would have no root.
    while symbols[0] == "(" and is_one_node(symbols[1:-1]):
        symbols = symbols[1:-1]
    return symbols


def penn_treebank(
    folder: str | Path,
    function_tags: bool = False,
    traces: bool = False,
    pattern: str = "**/*.mrg",
    max_line: int = MAX_LINE,
) -> tf.data.Dataset:
    """Reads trees in brackets from the files of a folder, such as the Penn Treebank's `.mrg`.

    A tree begins where a line begins with a bracket; its other lines are indented. A line may also
    hold several whole trees. The empty bracket around a tree is left out. Files are read lazily, in
    the order of their paths. What is no whole tree, or a file that cannot be read, is an example
    with a `problem`, which `kmm.data.encode` raises or skips; the next tree is read again.

    Marcus et al. 1993, "Building a Large Annotated Corpus of English: The Penn Treebank". License:
    from the Linguistic Data Consortium (LDC99T42).

    Args:
        folder: the folder.
        function_tags: whether labels of phrases keep what follows the category, as in `NP-SBJ-1`.
        traces: whether empty elements (`-NONE-`) stay. Without them, phrases that are empty then
            are left out too.
        pattern: which files of the folder are read.
        max_line: the most characters of a line, and of a tree.

    Returns:
        A `tf.data.Dataset` of strings `{"inputs": words, separated by spaces, "targets": tree on
        one line, "source": path and line, "problem"}`.

    Raises:
        ValueError: there is no such folder, it has no such file, or `max_line` is not positive.

    Example:

    ```python
    with open("wsj_0001.mrg", "w") as file:
        file.write("( (S (NP-SBJ (DT The) (NN file)) (VP (VBZ opens))))")
    trees = kmm.datasets.penn_treebank(".")  # or "treebank/combined"
    ```
    """
    folder = existing_folder("folder", folder)
    max_line = positive_int("max_line", max_line)
    files = find_files(folder, pattern)
    if not files:
        raise ValueError(f"`folder` must have files {pattern}. Received: folder={str(folder)!r}")
    return dataset_of_rows(functools.partial(_rows, files, function_tags, traces, max_line))


def _rows(files, function_tags, traces, max_line):
    last_bad = ""
    for path in files:
        for block in _blocks(path, max_line):
            for start, piece in split_trees("\n".join(line.text for line in block)):
                lines = block[start : start + piece.count("\n") + 1]
                # A line that is no text says more than the tree that it breaks.
                problem = next((line.problem for line in lines if line.problem), "")
                words, tree = "", ""
                try:
                    if not problem:
                        words, tree = one_line(piece, function_tags, traces)
                except BadExampleError as error:
                    problem = f"{error.reason}: {error}"
                source = f"{path}:{lines[0].number}"
                # Bad examples are counted once a line, which may have a million surplus brackets.
                if problem and source == last_bad:
                    continue
                last_bad = source if problem else last_bad
                yield words, tree, source, problem


def _blocks(path: Path, max_line: int) -> Iterator[list[Line]]:
    """Splits a file before each line that starts with a bracket.

    A tree that does not close then spoils no tree after it, and a file need not fit in memory:
    where no line starts with a bracket, it is split between trees, or in one that is too long.
    """
    block: list[Line] = []
    size = depth = 0
    for line in read_lines(path, max_line):
        full = size > max_line and (depth <= 0 or size > 2 * max_line)
        if block and (full or line.text.startswith("(")):
            yield block
            block, size, depth = [], 0, 0
        block.append(line)
        size += len(line.text) + 1
        depth += line.text.count("(") - line.text.count(")")
    yield block
