"""The files that ship with the library, and which of their rows are held out: one rule for all."""

import functools
import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

FILES = Path(__file__).parent / "files"
LANGUAGES = ("en", "de", "fr")
SPLITS = ("train", "validation", "test")
TABLES = {
    "emoji": "emoji/emoji.tsv",
    "sentiment": "emoji/sentiment.tsv",
    "speech": "speech/transcripts.tsv",
    "en_de": "translation/en-de.tsv",
    "en_fr": "translation/en-fr.tsv",
    "libreoffice_en_de": "translation/libreoffice-en-de.tsv.gz",
    "libreoffice_en_fr": "translation/libreoffice-en-fr.tsv.gz",
    "parse": "parsing/trees.tsv",
}
# Columns of the tables without a header.
COLUMNS = {"en_de": ("en", "de"), "en_fr": ("en", "fr"), "parse": ("en", "tree")}
# Columns that are sentences: what no two splits may share. Trees hold no words but these.
SENTENCES = {
    "emoji": LANGUAGES,
    "speech": ("text",),
    "en_de": ("en", "de"),
    "en_fr": ("en", "fr"),
    "libreoffice_en_de": ("en", "de"),
    "libreoffice_en_fr": ("en", "fr"),
    "parse": ("en",),
}


@functools.cache
def table(source: str) -> dict[str, tuple[str, ...]]:
    """Reads a table as column -> values."""
    path = FILES / TABLES[source]
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    # Not `splitlines`, which splits at line separators within a sentence too, such as U+2028.
    lines = content.decode("utf-8").rstrip("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    header = COLUMNS.get(source) or rows.pop(0)
    return dict(zip(header, zip(*rows, strict=True), strict=True))


@functools.cache
def text_splits() -> dict[str, list[str | None]]:
    """Returns the split of every row of every table.

    Text goes by its English sentence, speech by its transcript, emoji by the first code point of
    `unified`, so that the variants of an emoji stay together.
    """
    sentences = {
        name: list(zip(*(table(name)[column] for column in columns)))
        for name, columns in SENTENCES.items()
    }
    keys = {name: [letters(first) for first, *_ in rows] for name, rows in sentences.items()}
    keys["emoji"] = [code.split("-")[0] for code in table("emoji")["unified"]]
    return assign(keys, sentences)


def rows(source: str, split: str) -> list[int]:
    """Returns the rows of a table that belong to a split, in order."""
    return [row for row, of_row in enumerate(text_splits()[source]) if of_row == split]


@functools.cache
def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images (N, 28, 28, 1) and the labels of a split of the digits."""
    short = {"validation": "val"}.get(split, split)
    with np.load(FILES / "digits" / "digits.npz") as file:
        return file[f"x_{short}"][..., np.newaxis], file[f"y_{short}"].astype("int32")


@functools.cache
def emoji_images() -> np.ndarray:
    """Reads the images (N, 32, 32, 3) of all rows of the emoji table."""
    with np.load(FILES / "emoji" / "emoji.npz") as file:
        return file["images"]


@functools.cache
def emoji_sentiment() -> tuple[list[int | None], list[float | None]]:
    """Returns tweets and sentiment of all rows of the emoji table, None where nobody counted.

    Sentiment is the mean of -1, 0 and 1 with the estimated probabilities `(n + 1) / (tweets + 3)`
    (Kralj Novak et al. 2015, PLoS ONE 10(12), e0144296).
    """
    counts = table("sentiment")
    known = {}
    columns = (counts[key] for key in ("unified", "tweets", "negative", "positive"))
    for code, *numbers in zip(*columns, strict=True):
        tweets, negative, positive = map(int, numbers)
        known[code] = tweets, (positive - negative) / (tweets + 3)
    found = [known.get(code, (None, None)) for code in table("emoji")["unified"]]
    return [tweets for tweets, _ in found], [sentiment for _, sentiment in found]


def letters(sentence: str) -> str:
    """Returns the letters of `sentence` in lowercase: what makes two sentences the same one."""
    return "".join(filter(str.isalpha, sentence.lower()))


def split_of(key: str) -> str:
    """Returns the split that a key falls into: 1/20 test, 1/20 validation, the rest training."""
    # Not `hash`, which Python salts anew in each process.
    bucket = zlib.crc32(key.encode("utf-8")) % 20
    return {0: "test", 1: "validation"}.get(bucket, "train")


def assign(
    keys: Mapping[str, Sequence[str]], sentences: Mapping[str, Sequence[Iterable[str]]]
) -> dict[str, list[str | None]]:
    """Assigns every example of several data sets to a split; no two splits share a sentence.

    The key of an example decides (`split_of`). Then an example leaves the validation split if one
    of its sentences occurs in the test split of any data set, in any language, and the training
    split if one occurs in either: translations can be equal where the English sentences differ.

    Args:
        keys: data set -> the key of each of its examples.
        sentences: data set -> the sentences of each of its examples.

    Returns:
        Data set -> the split of each example, None where it left.
    """
    splits: dict[str, list[str | None]] = {
        name: [split_of(key) for key in of_set] for name, of_set in keys.items()
    }
    # Without the empty one: texts that have no letters, such as two numbers, are not the same.
    texts = {
        name: [{letters(sentence) for sentence in example} - {""} for example in of_set]
        for name, of_set in sentences.items()
    }
    # Test first: what is held out stays, and training gives way.
    taken: set[str] = set()
    for split in ("test", "validation", "train"):
        seen: set[str] = set()
        for name, of_set in splits.items():
            for index, text in enumerate(texts[name]):
                if of_set[index] != split:
                    continue
                if text & taken:
                    of_set[index] = None
                else:
                    seen |= text
        taken |= seen
    return splits
