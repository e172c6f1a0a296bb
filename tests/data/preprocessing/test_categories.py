import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel import data


@pytest.fixture
def category():
    return data.CategoryPreprocessor(["cat", "dog", "Österreich"])


@pytest.mark.parametrize("raw", [1, "dog", b"dog", np.int64(1), np.uint8(1), tf.constant(1)])
def test_number_or_name(category, raw):
    label = category(raw)
    assert label.dtype == tf.int32 and label.shape == ()
    assert int(label) == 1


def test_inside_tf_data(category):
    for raw in ([0, 1, 2], np.arange(3, dtype="uint8"), ["cat", "dog", "Österreich"]):
        dataset = tf.data.Dataset.from_tensor_slices(raw).map(category)
        assert dataset.element_spec == tf.TensorSpec((), tf.int32)
        assert [int(label) for label in dataset] == [0, 1, 2]


def test_decode(category):
    assert [category.decode(i) for i in (0, np.int32(1), tf.constant(2))] == category.names
    assert data.CategoryPreprocessor(range(10)).decode(7) == "7"


@pytest.mark.parametrize("raw", [3, -1, "bird"])
def test_not_a_class(category, raw):
    with pytest.raises(ValueError, match=f"one of the 3 classes. Received: raw={raw!r}"):
        category(raw)
    dataset = tf.data.Dataset.from_tensors(raw).map(category)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s)one of the 3 classes.*{raw}"):
        next(iter(dataset))


def test_errors(category):
    with pytest.raises(ValueError, match=r"`names` must hold at least one name.*names=\[\]"):
        data.CategoryPreprocessor([])
    with pytest.raises(ValueError, match=r"none twice. Received: names=\['a', 'a'\]"):
        data.CategoryPreprocessor(["a", "a"])
    with pytest.raises(ValueError, match=r"one class. Received: shape=\(1,\), dtype=int32"):
        category([1])
    with pytest.raises(ValueError, match=r"one class. Received: shape=\(\), dtype=float32"):
        category(1.0)
    for prediction in (3, -1, 0.5, [1]):
        with pytest.raises(ValueError, match="class from 0 to 2. Received: prediction="):
            category.decode(prediction)


LABELS = data.LabelsPreprocessor(["red", "large", "new"])


@pytest.mark.parametrize(
    "raw", ["red|new", " new | red |", ["new", "red"], np.array(["red", "new"])]
)
def test_labels_there_and_back(raw):
    np.testing.assert_array_equal(LABELS(raw), [1, 0, 1])
    assert LABELS.decode(LABELS(raw)) == ["red", "new"]


def test_no_label_is_a_set_too():
    for raw in ("", "|", []):
        np.testing.assert_array_equal(LABELS(raw), [0, 0, 0])
    assert LABELS.decode(np.zeros(3)) == []


def test_labels_in_a_data_set_and_from_the_config():
    again = data.LabelsPreprocessor.from_config(LABELS.get_config())
    assert again == LABELS
    (mapped,) = tf.data.Dataset.from_tensors("large").map(again).as_numpy_iterator()
    np.testing.assert_array_equal(mapped, [0, 1, 0])


def test_refuses_what_is_no_label():
    with pytest.raises(ValueError, match=r"labels among 3 names. Received: \['blue', 'red'\]"):
        LABELS("blue|red")
    with pytest.raises(ValueError, match="Received: shape=.*dtype=int32"):
        LABELS(np.array([1], "int32"))
    with pytest.raises(ValueError, match="Received: separator=''"):
        data.LabelsPreprocessor(["a"], separator="")
    with pytest.raises(ValueError, match="`prediction` must have 3 numbers"):
        LABELS.decode(np.zeros(2))
