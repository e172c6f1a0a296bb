"""The data sets that ship with the library, as raw examples."""

import numpy as np
import tensorflow as tf

from keras_multimodel.datasets import sources
from keras_multimodel.datasets.info import check_name
from keras_multimodel.datasets.splits import SPLITS


def load(name: str, split: str = "train", language: str = "en") -> tf.data.Dataset:
    """Loads a data set that ships with the library.

    | name | inputs | targets |
    |---|---|---|
    | `digits` | uint8 image (28, 28, 1) | int32 label 0 to 9 |
    | `emoji` | uint8 image (32, 32, 3) | caption |
    | `speech` | bytes of a FLAC file | transcript |
    | `en_de`, `de_en`, `en_fr`, `fr_en` | sentence | its translation |
    | `parse` | sentence, tokens separated by spaces | tree in brackets |

    No sentence occurs in two splits, whatever the data set, language or side. Each folder of
    `keras_multimodel/datasets/files` has the rule and the licence beside the data.

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
    check_name(name)
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}. Received: split={split!r}")
    languages = sources.LANGUAGES if name == "emoji" else ("en",)
    if language not in languages:
        raise ValueError(
            f"`language` of '{name}' must be one of {', '.join(languages)}. "
            f"Received: language={language!r}"
        )
    inputs, targets = _columns(name, split, language)
    with tf.device("CPU:0"):
        return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": targets})


def _columns(name: str, split: str, language: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "digits":
        return sources.digits(split)
    if name in ("de_en", "fr_en"):
        targets, inputs = _columns("_".join(reversed(name.split("_"))), split, language)
        return inputs, targets
    rows = sources.rows(name, split)
    table = sources.table(name)
    if name == "emoji":
        return sources.emoji_images()[rows], _strings(table[language], rows)
    if name == "speech":
        return _flac(table["file"], rows), _strings(table["text"], rows)
    inputs, targets = table.values()
    return _strings(inputs, rows), _strings(targets, rows)


def _strings(column: tuple[str, ...], rows: list[int]) -> np.ndarray:
    return np.array([column[row].encode("utf-8") for row in rows], dtype=object)


def _flac(files: tuple[str, ...], rows: list[int]) -> np.ndarray:
    folder = sources.FILES / "speech"
    return np.array([(folder / files[row]).read_bytes() for row in rows], dtype=object)
