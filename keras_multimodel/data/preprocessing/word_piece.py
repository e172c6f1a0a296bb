"""Text as WordPiece subwords."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import keras
import keras_nlp
import tensorflow as tf
import tensorflow_text

from keras_multimodel.argument_checks import optional_positive_int, positive_int
from keras_multimodel.data.preprocessing.graph_forms import MappedForm
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor
from keras_multimodel.data.preprocessing.text import (
    END_ID,
    UNKNOWN_ID,
    id_names,
    read_sentences,
    until_end,
)
from keras_multimodel.data.preprocessing.text_files import as_string, decode_utf8
from keras_multimodel.typing import Tensor

_SPECIAL = ["[PAD]", "[END]", "[UNK]"]
_SUFFIX = "##"
_UNKNOWN = "⁇"  # as SentencePiece writes it
_MOST_CHARACTERS = 1000  # that keras-nlp's training keeps
_NO_SPACE_BEFORE = set(".,;:!?%)]}…’'-/”»_")
_NO_SPACE_AFTER = set("([{¿¡’'-/„«_#@")
_CJK = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")


@keras.saving.register_keras_serializable(package="keras_multimodel")
class WordPiecePreprocessor(Preprocessor):
    """Turns a string into int32 ids of its WordPiece pieces, with 1 at the end, and back.

    Text is normalized (NFKC) and split at spaces and around each punctuation mark. Each word is cut
    into the longest pieces of the vocabulary from its start; a word that cannot be cut, or is
    longer than 100 bytes, becomes id 2. `train_word_piece_preprocessor` makes one from sentences.

    WordPiece does not keep spaces. `decode` puts them where most text has them: none before a full
    stop or after an opening bracket; quotes open and close in turn. Where every space matters, use
    `TextPreprocessor`.

    Args:
        vocabulary: the pieces in the order of their ids: `"[PAD]"`, `"[END]"`, `"[UNK]"`, then all
            others. A piece that continues a word starts with `"##"`.
        max_length: the most ids of an example, the end included. Of a longer text the first
            `max_length - 1` ids and the end are kept. None keeps all.
        lowercase: whether upper case is read as lower case.

    Call arguments:
        raw: a string.

    Returns:
        int32 `(length,)`.

    Raises:
        ValueError: `vocabulary` has other special pieces, a piece twice, or one that is no string,
            `max_length` is smaller than 1, `raw` is not one string, or a predicted id is outside
            the vocabulary.

    Example:

    ```python
    text = kmm.data.train_word_piece_preprocessor(["Save the file.", "Open the file."], 100)
    ids = text("Open.")
    text.decode(ids)  # "Open."
    ```

    Reference:
        Schuster and Nakajima 2012, Japanese and Korean voice search; Song et al. 2020,
        arXiv 2012.15524.
    """

    vocabulary_argument = "vocabulary"
    incremental = True
    """Whether the text of the first ids is always the beginning of the text of all ids."""

    def __init__(
        self, vocabulary: Iterable[str], max_length: int | None = None, lowercase: bool = False
    ):
        vocabulary = list(vocabulary)
        if vocabulary[: len(_SPECIAL)] != _SPECIAL:
            expected = f"`vocabulary` must begin with {', '.join(_SPECIAL)}"
            raise ValueError(f"{expected}. Received: vocabulary={vocabulary[:5]}...")
        for piece in vocabulary:
            if not isinstance(piece, str) or not piece:
                raise ValueError(f"`vocabulary` must hold strings. Received: {piece!r}")
        if len(set(vocabulary)) < len(vocabulary):
            twice = next(piece for piece in vocabulary if vocabulary.count(piece) > 1)
            raise ValueError(f"`vocabulary` must hold no piece twice. Received: {twice!r} twice")
        self.vocabulary = vocabulary
        self.max_length = optional_positive_int("max_length", max_length)
        self.lowercase = lowercase
        with tf.init_scope():  # its table would belong to the graph that is open around the caller
            self._tokenizer = keras_nlp.tokenizers.WordPieceTokenizer(
                vocabulary, lowercase=lowercase, dtype="int32"
            )

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, special ones included."""
        return len(self.vocabulary)

    def __call__(self, raw: Any) -> tf.Tensor:
        text = as_string(raw)
        if tf.executing_eagerly():
            decode_utf8("raw", text.numpy())
        else:  # tensorflow-text would replace what is not UTF-8 without a word
            text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="strict")
        with tf.device("CPU:0"):
            text = tensorflow_text.normalize_utf8(text, "NFKC")
            ids = tf.convert_to_tensor(self._tokenizer(text), tf.int32)
            if self.max_length is not None:
                ids = ids[: self.max_length - 1]
            return tf.ensure_shape(tf.concat([ids, [END_ID]], axis=0), (None,))

    def decode(self, prediction: Tensor, inputs: Any = None) -> str:
        """Returns the text of ids up to the first end; padding is skipped."""
        ids = until_end(prediction, self.vocabulary_size)
        return _join([_UNKNOWN if i == UNKNOWN_ID else self.vocabulary[i] for i in ids])

    def pieces(self, ids: Tensor) -> list[str]:
        """Returns the piece of each id."""
        return id_names(ids, self.vocabulary.__getitem__)

    def graph_form(self) -> MappedForm:
        text, needed = tf.TensorSpec((), tf.string), ("tensorflow_text",)
        return MappedForm(self, text, (None,), "int32", packages=needed)

    def get_config(self) -> dict:
        return {
            "vocabulary": self.vocabulary,
            "max_length": self.max_length,
            "lowercase": self.lowercase,
        }


def train_word_piece_preprocessor(
    sentences: Iterable[str | bytes] | tf.data.Dataset,
    vocabulary_size: int,
    max_length: int | None = None,
    lowercase: bool = False,
) -> WordPiecePreprocessor:
    """Trains a WordPiece vocabulary, and makes a preprocessor of it.

    The same sentences give the same vocabulary.

    Args:
        sentences: strings, or a `tf.data.Dataset` of strings. Use training data only.
        vocabulary_size: the most ids, the three special ones included.
        max_length: see `WordPiecePreprocessor`.
        lowercase: see `WordPiecePreprocessor`.

    Returns:
        A `WordPiecePreprocessor`.

    Raises:
        ValueError: there is no sentence, or a vocabulary of this size has no room for each
            character at the start and within a word.
    """
    vocabulary_size = positive_int("vocabulary_size", vocabulary_size)
    texts = [unicodedata.normalize("NFKC", text) for text in read_sentences(sentences)]
    cased = [text.casefold() for text in texts] if lowercase else texts
    characters = {character for text in cased for character in text if not character.isspace()}
    least = len(_SPECIAL) + 2 * min(len(characters), _MOST_CHARACTERS)
    if vocabulary_size < least:
        expected = f"`vocabulary_size` must be at least {least} for these sentences"
        raise ValueError(f"{expected}. Received: vocabulary_size={vocabulary_size}")
    vocabulary = keras_nlp.tokenizers.compute_word_piece_vocabulary(
        tf.data.Dataset.from_tensor_slices(texts),
        vocabulary_size,
        lowercase=lowercase,
        reserved_tokens=_SPECIAL,
    )
    return WordPiecePreprocessor(vocabulary, max_length, lowercase)


def _join(pieces: list[str]) -> str:
    """Joins pieces to words, and sets a space before a word by what stands left of it."""
    text = ""
    words: list[str] = []
    quoted = False
    for piece in pieces:
        word = piece.removeprefix(_SUFFIX) or piece  # "##" alone is a word of the text
        if word != piece and words:
            words[-1] += word
            text += word
            continue
        text += " " * _needs_space(words, word, quoted) + word
        words.append(word)
        quoted ^= word == '"'
    return text


def _needs_space(words: list[str], word: str, quoted: bool) -> bool:
    if not words:
        return False
    left = words[-1]
    opened = left in _NO_SPACE_AFTER or (left == '"' and quoted)
    closes = word in _NO_SPACE_BEFORE or (word == '"' and quoted)
    number = words[-2:-1] and words[-2].isdigit() and left in ".,:" and word.isdigit()
    between_cjk = _CJK.match(left[-1:]) and _CJK.match(word)
    return not (opened or closes or number or between_cjk)
