"""LibriSpeech, English audio books."""

from pathlib import Path

import tensorflow as tf

from keras_multimodel.datasets.corpora.tfds_corpus import read_tfds


def librispeech(
    split: str = "train_clean100", data_dir: str | Path | None = None
) -> tf.data.Dataset:
    """Loads LibriSpeech, which tensorflow-datasets has prepared.

    The samples are at 16 kHz: preprocessors need `sampling_rate=16000`. The folder as it is on
    openslr.org is read by `kmm.datasets.audio_folder`. Panayotov et al. 2015, "LibriSpeech: an ASR
    corpus based on public domain audio books". Licence: CC-BY-4.0.

    Args:
        split: `"train_clean100"`, `"train_clean360"`, `"train_other500"`, `"dev_clean"`,
            `"dev_other"`, `"test_clean"`, `"test_other"`, or a slice of one.
        data_dir: folder of tensorflow-datasets; None for its default.

    Returns:
        A `tf.data.Dataset` of `{"inputs": int16 samples, "targets": transcript, "source": file and
        number}`.

    Raises:
        ValueError: there is no such split, or the data set is not prepared.

    Example:

    ```python
    speech = kmm.datasets.librispeech("train_clean100")
    ```
    """

    @tf.autograph.experimental.do_not_convert
    def to_example(row):
        return {"inputs": row["speech"], "targets": row["text"], "source": row["tfds_id"]}

    features = {"speech": True, "text": True}
    return read_tfds("librispeech", split, data_dir, features).map(to_example)
