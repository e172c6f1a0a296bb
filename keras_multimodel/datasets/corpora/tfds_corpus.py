"""What the loaders that read through tensorflow-datasets share."""

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
