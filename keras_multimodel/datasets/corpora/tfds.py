"""Corpora that tensorflow-datasets prepares: COCO, ImageNet, LibriSpeech, WMT 2014."""

from pathlib import Path

import tensorflow as tf


def read_tfds(
    name: str,
    split: str,
    data_dir: str | Path | None,
    features: dict | None = None,
    undecoded: tuple[str, ...] = (),
) -> tf.data.Dataset:
    """Reads a data set that tensorflow-datasets has prepared, in the order of its files.

    Args:
        name: name of the data set and its config.
        split: name of the split, slices included, such as `"train[:1%]"`.
        data_dir: folder of tensorflow-datasets; None for its default.
        features: which features are read, as `tfds.decode.PartialDecoding` takes them; None reads
            all.
        undecoded: features whose bytes are left as they are.

    Returns:
        The features, and `tfds_id`, which names file and number of an example.

    Raises:
        ImportError: tensorflow-datasets is not installed.
        ValueError: the data set has not been prepared, or has no such split.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "This data set needs tensorflow-datasets: pip install 'keras-multimodel[tfds]'"
        ) from error
    skipped = {feature: tfds.decode.SkipDecoding() for feature in undecoded} or None
    try:
        return tfds.load(
            name,
            split=split,
            data_dir=data_dir,
            download=False,
            decoders=features and tfds.decode.PartialDecoding(features, skipped),
            read_config=tfds.ReadConfig(add_tfds_id=True, try_autocache=False),
        )
    except AssertionError as error:
        raise ValueError(
            f"`data_dir` must hold {name}, prepared by tensorflow_datasets.builder({name!r})."
            f"download_and_prepare(). Received: data_dir={data_dir!r}, {error}"
        ) from error


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
    # Needs data that tensorflow-datasets has prepared.
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
    # Needs data that tensorflow-datasets has prepared.
    images = kmm.datasets.imagenet2012("train")
    ```
    """

    @tf.autograph.experimental.do_not_convert
    def to_example(row):
        return {"inputs": row["image"], "targets": row["label"], "source": row["tfds_id"]}

    features = {"image": True, "label": True}
    return read_tfds("imagenet2012", split, data_dir, features, ("image",)).map(to_example)


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
    # Needs data that tensorflow-datasets has prepared.
    speech = kmm.datasets.librispeech("train_clean100")
    ```
    """

    @tf.autograph.experimental.do_not_convert
    def to_example(row):
        return {"inputs": row["speech"], "targets": row["text"], "source": row["tfds_id"]}

    features = {"speech": True, "text": True}
    return read_tfds("librispeech", split, data_dir, features).map(to_example)


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
    # Needs data that tensorflow-datasets has prepared.
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
