"""Which examples are held out: one rule for every data set that ships with the library."""

import zlib
from collections.abc import Iterable, Mapping, Sequence

SPLITS = ("train", "validation", "test")


def letters(sentence: str) -> str:
    """Returns the letters of `sentence` in lowercase: what makes two sentences the same one."""
    return "".join(char for char in sentence.lower() if char.isalpha())


def split_of(key: str) -> str:
    """Returns the split that a key falls into: 1/20 test, 1/20 validation, the rest training."""
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
    texts = {
        name: [{letters(sentence) for sentence in example} - {""} for example in of_set]
        for name, of_set in sentences.items()
    }
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
