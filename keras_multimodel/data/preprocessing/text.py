"""Text as subwords or characters."""

import base64
import contextlib
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import sentencepiece
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from keras_multimodel.argument_checks import one_of, optional_positive_int, positive_int
from keras_multimodel.data.preprocessing.graph_forms import SentencePieceForm
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor, in_python
from keras_multimodel.data.preprocessing.text_files import as_string, decode_utf8, read_strings
from keras_multimodel.typing import Tensor

# Masks, losses and `generate` know these ids by number, whatever the vocabulary.
PADDING_ID = 0
END_ID = 1
UNKNOWN_ID = 2
_SPACE = "\u2581"  # as SentencePiece writes it
_USER_DEFINED = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
_MODEL_TYPES = ("unigram", "bpe", "char")


@keras.saving.register_keras_serializable(package="keras_multimodel")
class TextPreprocessor(Preprocessor):
    """Turns a string into int32 ids of its SentencePiece pieces, with 1 at the end, and back.

    Ids: 0 padding, 1 end, 2 unknown, then the pieces. `train_text_preprocessor` makes one from
    sentences.

    Args:
        proto: a SentencePiece model: its bytes, the path of its file, or its bytes in base64.
        max_length: the most ids of an example, the end included. Of a longer text the first
            `max_length - 1` ids and the end are kept, so that every sequence ends. None keeps all.

    Call arguments:
        raw: a string.

    Returns:
        int32 `(length,)`.

    Raises:
        ValueError: `proto` is no SentencePiece model or has other special ids, `max_length` is
            smaller than 1, `raw` is not one string, or a predicted id is outside the vocabulary.

    Example:

    ```python
    text = kmm.data.train_text_preprocessor(["Save the file.", "Open the file."], 273)
    ids = text("Open.")
    text.decode(ids)  # "Open."
    ```
    """

    incremental = True
    """Whether the text of the first ids is always the beginning of the text of all ids."""

    def __init__(self, proto: bytes | str | Path, max_length: int | None = None):
        self.max_length = optional_positive_int("max_length", max_length)
        self.proto, self._pieces = _read_model(proto)
        special = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if special != (PADDING_ID, END_ID, UNKNOWN_ID):
            raise ValueError(
                "`proto` must have the ids 0 for padding, 1 for the end and 2 for unknown pieces. "
                f"Received: (pad_id, eos_id, unk_id)={special}"
            )

    def extended(self, new: Iterable[str]) -> "TextPreprocessor":
        """Returns a preprocessor that has more words, each as one piece; their ids come last.

        A text without a new word has the same ids as before. A word counts where it stands at the
        start of the text or behind a space.

        Args:
            new: the words.

        Raises:
            ValueError: a word is empty, has white space in it, or is one piece already.
        """
        model = sentencepiece_model_pb2.ModelProto.FromString(self.proto)
        known = {piece.piece for piece in model.pieces}
        for word in [new] if isinstance(new, str) else list(new):
            piece = _SPACE + self._pieces.normalize(word).removeprefix(_SPACE)
            if not word or piece in known or _SPACE in piece[1:]:
                expected = "`new` must hold words without spaces that are no piece yet"
                raise ValueError(f"{expected}. Received: {word!r}")
            known.add(piece)
            model.pieces.add(piece=piece, score=0.0, type=_USER_DEFINED)
        return type(self)(model.SerializeToString(), self.max_length)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, special ones included."""
        return self._pieces.vocab_size()

    def __call__(self, raw: Any) -> tf.Tensor:
        # Not with the operation of tensorflow-text: as soon as a global seed is set, TensorFlow
        # drops the operation's vocabulary, or replaces it by that of another.
        return string_to_ids(raw, self._pieces.encode, self.max_length)

    def decode(self, prediction: Tensor, inputs: Any = None) -> str:
        """Returns the text of ids up to the first end; padding is skipped."""
        return self._pieces.decode(until_end(prediction, self.vocabulary_size).tolist())

    def pieces(self, ids: Tensor) -> list[str]:
        """Returns the piece of each id; one that starts a word has a mark for the space."""
        return id_names(ids, self._pieces.id_to_piece)

    def graph_form(self) -> SentencePieceForm:
        return SentencePieceForm(self.proto, self.max_length)

    def get_config(self) -> dict:
        proto = base64.b64encode(self.proto).decode("ascii")
        return {"proto": proto, "max_length": self.max_length}

    @classmethod
    def from_config(cls, config: dict) -> "TextPreprocessor":
        """Returns the preprocessor of a config, where `proto` is base64 and never a path.

        A model file that somebody loads must not have other files read.

        Args:
            config: what `get_config` returned.

        Raises:
            ValueError: `proto` is no SentencePiece model in base64.
        """
        try:
            content = base64.b64decode(config.get("proto", ""), validate=True)
        except (TypeError, ValueError):
            content = b""
        return cls(**{**config, "proto": content})


def train_text_preprocessor(
    sentences: Iterable[str | bytes] | tf.data.Dataset,
    vocabulary_size: int,
    model_type: str = "unigram",
    max_length: int | None = None,
    byte_fallback: bool = True,
) -> TextPreprocessor:
    """Trains a SentencePiece vocabulary, and makes a preprocessor of it.

    The same sentences give the same vocabulary. Text is normalized (NFKC, spaces) before it is
    cut into pieces.

    Args:
        sentences: strings, or a `tf.data.Dataset` of strings. Use training data only.
        vocabulary_size: the number of ids, the three special ones and the bytes included. With
            `model_type="char"` the most there may be.
        model_type: `"unigram"` or `"bpe"` for subwords, `"char"` for characters.
        max_length: see `TextPreprocessor`.
        byte_fallback: whether the vocabulary has all 256 bytes, so that characters that the
            sentences lack can be written. Without them, such a character becomes id 2.

    Returns:
        A `TextPreprocessor`.

    Raises:
        ValueError: there is no sentence, one is not UTF-8 (the message has its number, from 0),
            `model_type` is unknown, or the sentences do not allow a vocabulary of this size.
    """
    one_of("model_type", model_type, _MODEL_TYPES)
    vocabulary_size = positive_int("vocabulary_size", vocabulary_size, minimum=4)
    texts = read_sentences(sentences)
    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=buffer,
            model_type=model_type,
            vocab_size=vocabulary_size,
            hard_vocab_limit=model_type != "char",
            byte_fallback=byte_fallback,
            # By default the rarest characters and sentences above 4,192 bytes would be left out.
            character_coverage=1.0,
            max_sentence_length=1 << 20,
            pad_id=PADDING_ID,
            eos_id=END_ID,
            unk_id=UNKNOWN_ID,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_explain(str(error), vocabulary_size)) from error
    return TextPreprocessor(buffer.getvalue(), max_length)


def read_sentences(sentences: Iterable[str | bytes] | tf.data.Dataset) -> list[str]:
    """Returns the sentences that are not blank; see `read_strings`.

    Args:
        sentences: strings, or a data set of strings.

    Returns:
        The sentences, decoded.

    Raises:
        ValueError: there is none.
    """
    texts = [text for text in read_strings("sentences", sentences) if text.strip()]
    if not texts:
        raise ValueError("`sentences` must hold at least one sentence. Received: none")
    return texts


def string_to_ids(
    raw: Any, encode: Callable[[str], list[int]], max_length: int | None
) -> tf.Tensor:
    """Returns int32 ids `(length,)` of one raw string, with the end behind them.

    Args:
        raw: the string, in any of the forms that `as_string` reads.
        encode: function from the string to its ids, without the end.
        max_length: the most ids, the end included, or None.
    """

    def run(content: bytes) -> np.ndarray:
        ids = encode(decode_utf8("raw", content))
        # A text that is cut has an end too, or the decoder would not learn to stop.
        return np.array([*ids[: None if max_length is None else max_length - 1], END_ID], "int32")

    return in_python(run, [as_string(raw)], tf.TensorSpec((None,), tf.int32))


def id_names(ids: Tensor, name: Callable[[int], str]) -> list[str]:
    """Returns what each id stands for; that of the end is "(end)" in every vocabulary.

    Args:
        ids: integers `(length,)`.
        name: function from an id to what it stands for.
    """
    return ["(end)" if i == END_ID else name(i) for i in np.asarray(ids).tolist()]


def until_end(prediction: Tensor, vocabulary_size: int) -> np.ndarray:
    """Returns the ids before the first end, without padding.

    Args:
        prediction: ids `(length,)`.
        vocabulary_size: the number of ids.

    Returns:
        int64 ids.

    Raises:
        ValueError: `prediction` is no sequence of ids, or has one outside the vocabulary.
    """
    ids = np.asarray(prediction)
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or ids.size == 0):
        expected = "`prediction` must be a sequence of integer ids"
        raise ValueError(f"{expected}. Received: shape={ids.shape}, dtype={ids.dtype}")
    ids = ids.astype("int64")
    ends = np.flatnonzero(ids == END_ID)
    ids = ids[: ends[0]] if len(ends) else ids
    ids = ids[ids != PADDING_ID]
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary_size:
        expected = f"`prediction` must hold ids from 0 to {vocabulary_size - 1}"
        raise ValueError(f"{expected}. Received: prediction={ids.tolist()}")
    return ids


def _read_model(proto: bytes | str | Path) -> tuple[bytes, sentencepiece.SentencePieceProcessor]:
    # A ValueError: no base64. A RuntimeError: bytes that are no model.
    with contextlib.suppress(ValueError, RuntimeError):
        if isinstance(proto, bytes):
            content = proto
        # The system may refuse to look for a path as long as a model in base64.
        elif isinstance(proto, Path) or (len(proto) < 4096 and Path(proto).is_file()):
            content = Path(proto).read_bytes()
        else:
            content = base64.b64decode(proto, validate=True)
        if content:  # SentencePiece takes empty bytes for a model that is loaded later
            return content, sentencepiece.SentencePieceProcessor(model_proto=content)
    raise ValueError(
        "`proto` must be a SentencePiece model: its bytes, the path of its file, or base64. "
        f"Received: proto={proto[:40] if isinstance(proto, bytes | str) else proto!r}"
    )


def _explain(error: str, vocabulary_size: int) -> str:
    received = f"Received: vocabulary_size={vocabulary_size}"
    if high := re.search(r"value <= (\d+)", error):
        return f"`vocabulary_size` must be at most {high[1]} for these sentences. {received}"
    if low := re.search(r"vs (\d+)", error):
        return f"`vocabulary_size` must be at least {low[1]} for these sentences. {received}"
    return f"`vocabulary_size` must suit the sentences: {error} {received}"
