import numpy as np
import tensorflow as tf

from keras_multimodel.data.mixing import fingerprint as module
from keras_multimodel.data.mixing.fingerprint import fingerprint


def examples(values):
    return tf.data.Dataset.from_tensor_slices({"inputs": values, "targets": np.arange(len(values))})


def test_equal_examples_have_one_fingerprint_and_others_another():
    values = np.arange(200, dtype="float32").reshape(100, 2)
    first = fingerprint(examples(values))
    assert first[0] == 100 and fingerprint(examples(values.copy()), 100) == first
    for changed in (values[::-1], values + 1e-6 * (values == 150), values.astype("float64")):
        assert fingerprint(examples(changed), 100) != first
    # An element more, and one less.
    assert fingerprint(examples(values[:99]), 100)[0] == 99
    assert fingerprint(examples(np.concatenate([values, values])), 100) == first


def test_slow_and_endless_data_are_read_for_a_while(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    endless = examples(np.ones((5, 2))).repeat()
    count, checksum = fingerprint(endless)
    assert count == 32 and fingerprint(endless, 32) == (count, checksum)


def test_ragged_and_text_examples():
    ragged = tf.ragged.constant([[1, 2], [3]])
    dataset = tf.data.Dataset.from_tensor_slices({"inputs": ragged, "targets": ["a", "b"]})
    other = tf.data.Dataset.from_tensor_slices({"inputs": ragged, "targets": ["a", "c"]})
    assert fingerprint(dataset)[0] == 2 and fingerprint(dataset) != fingerprint(other)
