"""ImageNet, the images of the challenge of 2012."""

from pathlib import Path

import tensorflow as tf

from keras_multimodel.datasets.corpora.tfds_corpus import read_tfds


def imagenet2012(split: str = "train", data_dir: str | Path | None = None) -> tf.data.Dataset:
    """Loads ImageNet, which tensorflow-datasets has prepared.

    Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge" (arXiv 1409.0575).
    Licence: for non-commercial research; the files come from image-net.org after a registration.

    Args:
        split: `"train"`, `"validation"`, or a slice of one, such as `"train[:1%]"`. `"test"` has no
            labels: they are -1.
        data_dir: folder of tensorflow-datasets; None for its default.

    Returns:
        A `tf.data.Dataset` of `{"inputs": bytes of a JPEG file, "targets": int64 class from 0 to
        999, "source": file and number}`.

    Raises:
        ValueError: there is no such split, or the data set is not prepared.

    Example:

    ```python
    images = kmm.datasets.imagenet2012("train")
    ```
    """

    @tf.autograph.experimental.do_not_convert
    def to_example(row):
        return {"inputs": row["image"], "targets": row["label"], "source": row["tfds_id"]}

    features = {"image": True, "label": True}
    return read_tfds("imagenet2012", split, data_dir, features, ("image",)).map(to_example)
