"""COCO, images with captions."""

from pathlib import Path

import tensorflow as tf

from keras_multimodel.datasets.corpora.tfds_corpus import read_tfds


def coco_captions(split: str = "train", data_dir: str | Path | None = None) -> tf.data.Dataset:
    """Loads the captions of COCO 2014, which tensorflow-datasets has prepared.

    An image has about five captions, and is an example with each of them, one after the other. The
    splits are those of Karpathy and Li 2015. Chen et al. 2015, "Microsoft COCO Captions" (arXiv
    1504.00325). Licence: CC-BY-4.0 (captions), the terms of Flickr (images).

    Args:
        split: `"train"`, `"val"`, `"test"`, `"restval"`, or a slice of one, such as `"train[:1%]"`.
        data_dir: folder of tensorflow-datasets; None for its default.

    Returns:
        A `tf.data.Dataset` of `{"inputs": uint8 image `(height, width, 3)`, "targets": caption,
        "source": file and number}`.

    Raises:
        ValueError: there is no such split, or the data set is not prepared.

    Example:

    ```python
    captions = kmm.datasets.coco_captions("train")
    ```
    """

    @tf.autograph.experimental.do_not_convert
    def to_examples(row):
        captions = tf.data.Dataset.from_tensor_slices(row["captions"]["text"]).enumerate()

        @tf.autograph.experimental.do_not_convert
        def to_example(number, caption):
            source = [row["tfds_id"], " caption ", tf.strings.as_string(number)]
            return {"inputs": row["image"], "targets": caption, "source": tf.strings.join(source)}

        return captions.map(to_example)

    features = {"image": True, "captions": {"text": True}}
    return read_tfds("coco_captions", split, data_dir, features).flat_map(to_examples)
