"""Tasks and data sets for the tests of `encode`, without a model."""

import types

import pytest
import tensorflow as tf

from keras_multimodel import data

TEXT = data.train_text_preprocessor(["a word", "words of a text"], 300, "char")


def make_task(reader, writer, name="t", **nets):
    net = {
        side: types.SimpleNamespace(preprocessor=preprocessor, **nets.get(side, {}))
        for side, preprocessor in (("inputs", reader), ("targets", writer))
    }
    return types.SimpleNamespace(name=name, max_input_length=None, max_target_length=64, **net)


def dataset(inputs, targets, **more):
    return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": targets, **more})


def skip_bad(examples, task, **arguments):
    """Returns the encoded examples that are good, and the report on the others."""
    report = data.BadExamples()
    encoded = data.encode(examples, task, on_bad="skip", report=report, **arguments)
    with pytest.warns(UserWarning, match="Bad examples were skipped"):
        return list(encoded), report
