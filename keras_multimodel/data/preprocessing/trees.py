"""Constituency trees as sequences of symbols, and back.

The form of Vinyals et al. 2015 (arXiv 1412.7449): an opening symbol per phrase, the part-of-speech
tag in place of each word, a closing symbol with the phrase's label. The words stay outside:

    (S (NP (DT The) (NN file)) (VP (VBZ opens)))  ->  (S (NP DT NN )NP (VP VBZ )VP )S
"""

import collections
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_multimodel.argument_checks import optional_positive_int
from keras_multimodel.data.encoding.bad_examples import BadExampleError
from keras_multimodel.data.preprocessing.graph_forms import TreeForm
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor
from keras_multimodel.data.preprocessing.text import (
    UNKNOWN_ID,
    id_names,
    string_to_ids,
    until_end,
)
from keras_multimodel.data.preprocessing.text_files import as_string, decode_utf8, read_strings
from keras_multimodel.generation.constraints import TreeConstraint
from keras_multimodel.typing import Tensor

MISSING_TAG = "XX"
ROOT_LABEL = "S"
_SPECIAL = 3
_SHOWN = 1000  # characters of a bad tree
_MAX_DEPTH = 200  # nltk's trees recurse at each level, and Python ends that at 1,000 calls
# A tag with its word, an opening bracket with its label, a closing bracket, or a word alone.
_TOKEN = re.compile(
    r"\(\s*(?P<tag>[^\s()]+)\s+(?P<word>[^\s()]+)\s*\)|\(\s*(?P<label>[^\s()]*)|\)|(?P<stray>[^\s()]+)"
)


def linearize(tree: str) -> list[str]:
    """Turns a tree in brackets into symbols.

    Args:
        tree: one tree, each word under a tag of its own: `"(S (NP (DT The) (NN file)))"`. The
            label of a phrase may be empty, as at the top of Penn Treebank trees.

    Returns:
        `["(S", "(NP", "DT", "NN", ")NP", ")S"]`.

    Raises:
        ValueError: `tree` is not one whole tree.
    """
    return parse(tree)[0]


def parse(tree: str) -> tuple[list[str], list[str]]:
    """Returns the symbols of a tree and its words; see `linearize`.

    Args:
        tree: one tree in brackets.

    Raises:
        BadExampleError: `tree` is not one whole tree.
    """
    symbols: list[str] = []
    words: list[str] = []
    open_labels: list[str] = []
    for token in _TOKEN.finditer(tree):
        if symbols and not open_labels:
            raise _bad_tree(f"must end with its root, but '{token[0][0]}' follows", tree)
        if token["tag"]:
            symbols.append(token["tag"])
            words.append(token["word"])
        elif token["stray"]:
            raise _bad_tree(f"must have a tag for each word, '{token[0]}' has none", tree)
        elif token[0] != ")":
            open_labels.append(token["label"])
            symbols.append(f"({token['label']}")
        elif not open_labels:
            raise _bad_tree("must open a phrase before it closes one", tree)
        elif symbols[-1].startswith("("):
            raise _bad_tree(f"must have no empty phrase '{symbols[-1]}'", tree)
        else:
            symbols.append(f"){open_labels.pop()}")
        if len(open_labels) > _MAX_DEPTH:
            raise _bad_tree(f"must nest at most {_MAX_DEPTH} phrases", tree)
    if open_labels or not symbols:
        raise _bad_tree(f"must close all phrases, {len(open_labels)} are open at its end", tree)
    return symbols, words


def delinearize(symbols: Sequence[str], words: Sequence[str]) -> str:
    """Turns symbols and words into a tree in brackets: the inverse of `linearize`.

    Args:
        symbols: what `linearize` returned.
        words: the words of the tree. Brackets in them are written `-LRB-` and `-RRB-`.

    Returns:
        The tree on one line.

    Raises:
        ValueError: the symbols are not one tree over exactly these words.
    """
    pieces: list[str] = []
    open_labels: list[str] = []
    used = 0
    for index, symbol in enumerate(symbols):
        if index and not open_labels:
            raise _bad_symbols(f"must end with the root, but '{symbol}' follows", symbols)
        if symbol.startswith("("):
            open_labels.append(symbol[1:])
            pieces.append(f" {symbol}")
        elif symbol.startswith(")"):
            if not open_labels or open_labels.pop() != symbol[1:]:
                raise _bad_symbols(f"must open a phrase that '{symbol}' closes", symbols)
            if symbols[index - 1].startswith("("):
                raise _bad_symbols(f"must have no empty phrase '{symbols[index - 1]}'", symbols)
            pieces.append(")")
        else:
            pieces.extend(f" ({symbol} {_leaf(word)})" for word in words[used : used + 1])
            used += 1
    if open_labels or not symbols:
        raise _bad_symbols(f"must close all phrases, {len(open_labels)} are open", symbols)
    if used != len(words):
        raise _bad_symbols(f"must have a tag for each of {len(words)} words, not {used}", symbols)
    return "".join(pieces).strip()


def repair(symbols: Sequence[str], words: Sequence[str]) -> list[str]:
    """Repairs symbols so that they are one tree over exactly the words; a tree stays as it is.

    - Drops closing symbols whose phrase is not open, empty phrases, phrases nested more than 200
      deep, and tags for which no word is left.
    - Closes phrases that are open inside one that closes, or at the end.
    - Attaches words that have no tag to the root, with the tag `XX`.
    - Puts a phrase `S` around all where there is no root, or more than one.

    Args:
        symbols: a sequence of symbols, well-formed or not.
        words: the words of the sentence.

    Returns:
        Symbols that `delinearize` takes with these words.

    Raises:
        ValueError: there is no word.
    """
    if not words:
        raise ValueError(f"`words` must hold at least one word. Received: words={words}")
    kept: list[str] = []
    open_labels: list[str] = []
    used = 0
    for symbol in symbols:
        if symbol.startswith("("):
            if len(open_labels) < _MAX_DEPTH:
                open_labels.append(symbol[1:])
                kept.append(symbol)
        elif symbol.startswith(")"):
            # Down to the innermost phrase of this label; where none is open, nothing closes.
            depths = [depth for depth, label in enumerate(open_labels) if label == symbol[1:]]
            _close(kept, open_labels, depths[-1] if depths else len(open_labels))
        elif used < len(words):
            kept.append(symbol)
            used += 1
    _close(kept, open_labels, 0)
    missing = [MISSING_TAG] * (len(words) - used)
    # A lone tag is one node, but no phrase that could take the words that are missing.
    if not is_one_node(kept) or (missing and len(kept) == 1):
        kept = [f"({ROOT_LABEL}", *kept, f"){ROOT_LABEL}"]
    return [*kept[:-1], *missing, kept[-1]]


def _close(kept: list[str], open_labels: list[str], depth: int) -> None:
    """Closes phrases until `depth` are open. One without a word disappears."""
    while len(open_labels) > depth:
        label = open_labels.pop()
        # The phrase around an empty one may be empty now too: it is looked at when it closes.
        if kept[-1].startswith("("):
            kept.pop()
        else:
            kept.append(f"){label}")


def is_one_node(symbols: Sequence[str]) -> bool:
    """Returns whether balanced symbols are one phrase or tag, not none or several in a row."""
    depths = itertools.accumulate({"(": 1, ")": -1}.get(symbol[:1], 0) for symbol in symbols)
    return bool(symbols) and 0 not in list(depths)[:-1]


def escape(word: str) -> str:
    """Writes the brackets of a word as the Penn Treebank does."""
    return word.replace("(", "-LRB-").replace(")", "-RRB-")


@keras.saving.register_keras_serializable(package="keras_multimodel")
class TreePreprocessor(Preprocessor):
    """Turns a tree in brackets into int32 ids of its symbols, with 1 at the end, and back.

    Ids: 0 padding, 1 end, 2 unknown, then `symbols` in order. `train_tree_preprocessor` makes one
    from trees.

    Args:
        symbols: the symbols known, as `linearize` returns them.
        max_length: the most ids of an example, the end included; of a longer tree the first
            `max_length - 1` ids and the end are kept. None keeps all.

    Call arguments:
        raw: a tree in brackets.

    Returns:
        int32 `(length,)`.

    Raises:
        ValueError: `symbols` is empty or has a symbol twice, `max_length` is smaller than 1, `raw`
            is not one whole tree, or `decode` is called without the sentence, or with a row whose
            parts are not one text and others. Inside `tf.data` a wrong tree raises
            `tf.errors.InvalidArgumentError`.

    Example:

    ```python
    trees = kmm.data.train_tree_preprocessor(["(S (NP (DT The) (NN file)))"])
    ids = trees("(S (NP (DT The) (NN file)))")
    trees.decode(ids, inputs="A printer")  # "(S (NP (DT A) (NN printer)))"
    ```
    """

    vocabulary_argument = "symbols"

    def __init__(self, symbols: Iterable[str], max_length: int | None = None):
        if isinstance(symbols, str):
            raise ValueError(f"`symbols` must be a list of symbols. Received: symbols={symbols!r}")
        symbols = list(symbols)
        if not symbols or len(set(symbols)) < len(symbols):
            expected = "`symbols` must hold at least one symbol, and none twice"
            raise ValueError(f"{expected}. Received: symbols={symbols}")
        self.symbols = symbols
        self.max_length = optional_positive_int("max_length", max_length)
        self._ids = {symbol: index for index, symbol in enumerate(symbols, start=_SPECIAL)}

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, special ones included."""
        return len(self.symbols) + _SPECIAL

    def __call__(self, raw: Any) -> tf.Tensor:
        return string_to_ids(raw, self._encode, self.max_length)

    def _encode(self, tree: str) -> list[int]:
        return [self._ids.get(symbol, UNKNOWN_ID) for symbol in linearize(tree)]

    def decode(self, prediction: Tensor, inputs: Any = None) -> str:
        """Returns the tree of ids over the words of the input, repaired if needed.

        Args:
            prediction: ids.
            inputs: the sentence, or a row that has it as its only text.

        Returns:
            The tree in brackets.

        Raises:
            ValueError: there are no `inputs`, or they are a row without just one text.
        """
        if inputs is None:
            expected = "`inputs` must be the sentence whose tree is decoded"
            raise ValueError(f"{expected}. Received: inputs=None")
        ids = until_end(prediction, self.vocabulary_size)
        words = _words(inputs)
        symbols = [self.symbols[index - _SPECIAL] for index in ids if index != UNKNOWN_ID]
        return delinearize(repair(symbols, words), words)

    def pieces(self, ids: Tensor) -> list[str]:
        """Returns the symbol of each id."""
        special = ["(padding)", "(end)", "(unknown)"]
        return id_names(ids, [*special, *self.symbols].__getitem__)

    def constraint(self) -> TreeConstraint:
        """Returns the constraint that has `generate` write trees over the words of the input."""
        return TreeConstraint(self.symbols, lambda raw: len(_words(raw)))

    def graph_form(self) -> TreeForm:
        return TreeForm(self.symbols, self.constraint())

    def get_config(self) -> dict:
        return {"symbols": self.symbols, "max_length": self.max_length}


def train_tree_preprocessor(
    trees: Iterable[str | bytes] | tf.data.Dataset, max_length: int | None = None
) -> TreePreprocessor:
    """Collects the symbols of trees, the most frequent first, and makes a preprocessor of them.

    Args:
        trees: trees in brackets, or a `tf.data.Dataset` of them. Use training data only.
        max_length: see `TreePreprocessor`.

    Returns:
        A `TreePreprocessor`.

    Raises:
        ValueError: there is no tree, or one is not whole or not UTF-8; the message has its number,
            from 0.
    """
    counts: collections.Counter[str] = collections.Counter()
    for number, tree in enumerate(read_strings("trees", trees)):
        try:
            counts.update(linearize(tree))
        except ValueError as error:
            raise ValueError(f"`trees[{number}]` is not one tree: {error}") from None
    if not counts:
        raise ValueError("`trees` must hold at least one tree. Received: none")
    return TreePreprocessor(
        sorted(counts, key=lambda symbol: (-counts[symbol], symbol)), max_length
    )


def _words(sentence) -> list[str]:
    if isinstance(sentence, Mapping):
        texts = {part: raw for part, raw in sentence.items() if isinstance(raw, str | bytes)}
        if len(texts) != 1:
            expected = "`inputs` must have one text, over whose words the tree stands"
            raise ValueError(f"{expected}. Received: {len(texts)} of {list(sentence)}: {[*texts]}")
        (sentence,) = texts.values()
    return decode_utf8("inputs", as_string(sentence).numpy()).split()


def _leaf(word: str) -> str:
    # A backslash next to a bracket would escape it for nltk.
    return escape(word) + " " * word.endswith("\\")


def _bad_tree(expected: str, tree: str) -> BadExampleError:
    shown = tree if len(tree) <= _SHOWN else f"{tree[:_SHOWN]}..."
    return BadExampleError("broken tree", f"`tree` {expected}. Received: tree={shown!r}")


def _bad_symbols(expected: str, symbols: Sequence[str]) -> ValueError:
    return ValueError(f"`symbols` {expected}. Received: symbols={' '.join(symbols)}")
