"""Readers of the files that ship with the library, and the split of each of their rows."""

import functools
from pathlib import Path

import numpy as np

from keras_multimodel.datasets import splits

FILES = Path(__file__).parent / "files"
LANGUAGES = ("en", "de", "fr")
TABLES = {
    "emoji": "emoji/emoji.tsv",
    "speech": "speech/transcripts.tsv",
    "en_de": "translation/en-de.tsv",
    "en_fr": "translation/en-fr.tsv",
    "parse": "parsing/trees.tsv",
}
COLUMNS = {
    "en_de": ("en", "de"),
    "en_fr": ("en", "fr"),
    "parse": ("en", "tree"),
}


@functools.cache
def table(source: str) -> dict[str, tuple[str, ...]]:
    """Reads a table as column -> values."""
    lines = (FILES / TABLES[source]).read_text(encoding="utf-8").rstrip("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    header = COLUMNS.get(source) or rows.pop(0)
    return dict(zip(header, zip(*rows, strict=True), strict=True))


@functools.cache
def text_splits() -> dict[str, list[str | None]]:
    """Returns the split of every row of every table.

    Text goes by its English sentence, speech by its transcript, emoji by the first code point of
    `unified`, so that the variants of an emoji stay together.
    """
    english = {name: table(name)["en"] for name in ("en_de", "en_fr", "parse")}
    english["speech"] = table("speech")["text"]
    keys = {name: [splits.letters(text) for text in texts] for name, texts in english.items()}
    keys["emoji"] = [code.split("-")[0] for code in table("emoji")["unified"]]
    sentences = {
        "emoji": list(zip(*(table("emoji")[language] for language in LANGUAGES), strict=True)),
        "speech": [(text,) for text in english["speech"]],
        "en_de": list(zip(english["en_de"], table("en_de")["de"], strict=True)),
        "en_fr": list(zip(english["en_fr"], table("en_fr")["fr"], strict=True)),
        "parse": [(text,) for text in english["parse"]],
    }
    return splits.assign(keys, sentences)


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
