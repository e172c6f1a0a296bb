"""WMT 2014, translation."""

from pathlib import Path

import tensorflow as tf

from keras_multimodel.datasets.corpora.tfds_corpus import read_tfds

_LANGUAGES = ("cs", "de", "fr", "hi", "ru")  # each beside English


def wmt14_translate(
    inputs: str = "en",
    targets: str = "de",
    split: str = "train",
    data_dir: str | Path | None = None,
) -> tf.data.Dataset:
    """Loads sentence pairs of WMT 2014, which tensorflow-datasets has prepared.

    Bojar et al. 2014, "Findings of the 2014 Workshop on Statistical Machine Translation"
    (W14-3302). Licence: that of each part (Europarl, Common Crawl, UN, news commentary and others).

    Args:
        inputs: language of the inputs: `"cs"`, `"de"`, `"en"`, `"fr"`, `"hi"` or `"ru"`.
        targets: language of the targets; one of the two is `"en"`.
        split: `"train"`, `"validation"`, `"test"`, or a slice of one, such as `"train[:1%]"`.
        data_dir: folder of tensorflow-datasets; None for its default.

    Returns:
        A `tf.data.Dataset` of `{"inputs": sentence, "targets": its translation, "source": file and
        number}`.

    Raises:
        ValueError: there is no such pair of languages or split, or the data set is not prepared.

    Example:

    ```python
    pairs = kmm.datasets.wmt14_translate("en", "de", "train")
    ```
    """
    pair = {inputs, targets}
    if "en" not in pair or not pair - {"en"} <= set(_LANGUAGES) or len(pair) != 2:
        raise ValueError(
            f"`inputs` and `targets` must be 'en' and one of {', '.join(_LANGUAGES)}. "
            f"Received: inputs={inputs!r}, targets={targets!r}"
        )
    (other,) = pair - {"en"}

    @tf.autograph.experimental.do_not_convert
    def to_example(pair):
        return {"inputs": pair[inputs], "targets": pair[targets], "source": pair["tfds_id"]}

    return read_tfds(f"wmt14_translate/{other}-en", split, data_dir).map(to_example)
