"""Trees as Penn Treebank files have them, as trees on one line."""

import re
from collections.abc import Iterator

from keras_multimodel.data.bad_example_error import BadExampleError
from keras_multimodel.data.trees import delinearize, linearize

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
