"""Corpora that tensorflow-datasets prepares: COCO, ImageNet, LibriSpeech, WMT 2014."""

from pathlib import Path

import tensorflow as tf


def read_tfds(
    name: str,
    split: str,
    data_dir: str | Path | None,
    inputs: str,
    targets: str,
    undecoded: tuple[str, ...] = (),
    partial: bool = True,
) -> tf.data.Dataset:
    """Reads a data set that tensorflow-datasets has prepared, in the order of its files.

    Args:
        name: name of the data set and its config.
        split: name of the split, slices included, such as `"train[:1%]"`.
        data_dir: folder of tensorflow-datasets; None for its default.
        inputs: the feature that becomes `inputs`.
        targets: the feature that becomes `targets`.
        undecoded: features whose bytes are left as they are.
        partial: whether other features than these two are left out before they are decoded.

    Returns:
        A data set of `{"inputs", "targets", "source"}`; `source` names file and number.

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
    # Only what is asked for is decoded: a row of COCO has objects beside its captions.
    skipped = {feature: tfds.decode.SkipDecoding() for feature in undecoded} or None
    partly = tfds.decode.PartialDecoding({inputs: True, targets: True}, skipped)
    # No `try_autocache`: it would keep a small data set in memory before anything is encoded, and
    # `encode(..., cache=True)` would keep it once more.
    config = tfds.ReadConfig(add_tfds_id=True, try_autocache=False)
    try:
        rows = tfds.load(
            name,
            split=split,
            data_dir=data_dir,
            download=False,
            decoders=partly if partial else None,
            read_config=config,
        )
    # tensorflow-datasets asserts that the files are there.
    except AssertionError as error:
        raise ValueError(
            f"`data_dir` must hold {name}, prepared by tensorflow_datasets.builder({name!r})."
            f"download_and_prepare(). Received: data_dir={data_dir!r}, {error}"
        ) from error

    @tf.autograph.experimental.do_not_convert
    def to_example(row):
        return {"inputs": row[inputs], "targets": row[targets], "source": row["tfds_id"]}

    return rows.map(to_example)


def coco_captions(split: str = "train", data_dir: str | Path | None = None) -> tf.data.Dataset:
    """Loads the captions of COCO 2014, which tensorflow-datasets has prepared.

    An image has about five captions, and is an example with each of them, one after the other. The
    splits are those of Karpathy and Li 2015. Chen et al. 2015, "Microsoft COCO Captions" (arXiv
    1504.00325). License: CC-BY-4.0 (captions), the terms of Flickr (images).

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
    def to_examples(image):
        captions = tf.data.Dataset.from_tensor_slices(image["targets"]["text"]).enumerate()

        def to_example(number, caption):
            # The captions of an image need names of their own: `encode` counts bad ones by source.
            source = [image["source"], " caption ", tf.strings.as_string(number)]
            return {**image, "targets": caption, "source": tf.strings.join(source)}

        return captions.map(to_example)

    return read_tfds("coco_captions", split, data_dir, "image", "captions").flat_map(to_examples)


def imagenet2012(split: str = "train", data_dir: str | Path | None = None) -> tf.data.Dataset:
    """Loads ImageNet, which tensorflow-datasets has prepared.

    Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge" (arXiv 1409.0575).
    License: for non-commercial research; the files come from image-net.org after a registration.

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
    # The files stay bytes: decoding is what `ImagePreprocessor` does, and it sees which are broken.
    return read_tfds("imagenet2012", split, data_dir, "image", "label", undecoded=("image",))


def librispeech(
    split: str = "train_clean100", data_dir: str | Path | None = None
) -> tf.data.Dataset:
    """Loads LibriSpeech, which tensorflow-datasets has prepared.

    The samples are at 16 kHz: preprocessors need `sampling_rate=16000`. The folder as it is on
    openslr.org is read by `kmm.datasets.audio_folder`. Panayotov et al. 2015, "LibriSpeech: an ASR
    corpus based on public domain audio books". License: CC-BY-4.0.

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
    return read_tfds("librispeech", split, data_dir, "speech", "text")


_LANGUAGES = ("cs", "de", "fr", "hi", "ru")  # each beside English


def wmt14_translate(
    inputs: str = "en",
    targets: str = "de",
    split: str = "train",
    data_dir: str | Path | None = None,
) -> tf.data.Dataset:
    """Loads sentence pairs of WMT 2014, which tensorflow-datasets has prepared.

    Bojar et al. 2014, "Findings of the 2014 Workshop on Statistical Machine Translation"
    (W14-3302). License: differs by part (Europarl, Common Crawl, UN, news commentary and others).

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
        expected = f"`inputs` and `targets` must be 'en' and one of {', '.join(_LANGUAGES)}"
        raise ValueError(f"{expected}. Received: inputs={inputs!r}, targets={targets!r}")
    (other,) = pair - {"en"}
    # One data set serves both directions: its name always has English last. It has no other
    # features, and tensorflow-datasets cannot take a `Translation` apart.
    name = f"wmt14_translate/{other}-en"
    return read_tfds(name, split, data_dir, inputs, targets, partial=False)
