"""What TensorBoard would read."""

import pathlib

import tensorflow as tf


def events(folder: pathlib.Path) -> dict:
    """Tag -> step -> tensor, of all event files of a folder."""
    result = {}
    for path in folder.glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                tensor = tf.make_ndarray(value.tensor)
                result.setdefault(value.tag, {})[event.step] = tensor
    return result
