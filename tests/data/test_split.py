"""Splitting a data set into training and testing."""

import numpy as np
import pytest
import tensorflow as tf

import keras_multimodel as kmm


def texts(count):
    words = [f"sentence {i}" for i in range(count)]
    return tf.data.Dataset.from_tensor_slices({"inputs": words, "targets": range(count)})


def targets(dataset):
    return [int(example["targets"]) for example in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("test", [0.1, 0.5, 0.99])
def test_every_example_is_on_one_side(test):
    parts = [targets(part) for part in kmm.data.split(texts(2000), test=test)]
    assert sorted(sum(parts, [])) == list(range(2000))
    assert all(part == sorted(part) for part in parts)  # in the order of the data set
    # Of 2,000 draws the share is 5 standard deviations off at most.
    assert abs(len(parts[1]) / 2000 - test) <= 5 * (test * (1 - test) / 2000) ** 0.5


def test_the_split_follows_from_seed_and_inputs():
    data = texts(300)
    found = targets(kmm.data.split(data, 0.3)[1])
    assert found == targets(kmm.data.split(data, test=0.3, seed=0)[1])
    assert found == sorted(targets(kmm.data.split(data.shuffle(300), 0.3)[1]))
    assert found != targets(kmm.data.split(data, 0.3, seed=-1)[1])
    # What is added later moves nothing.
    more = targets(kmm.data.split(texts(600), 0.3)[1])
    assert [number for number in more if number < 300] == found


def test_equal_inputs_stay_together():
    images = np.repeat(np.arange(40, dtype="uint8"), 3)[:, None, None] * np.ones((4, 4), "uint8")
    texts = {"source": ["s"] * 120, "problem": [""] * 120}
    rows = {"inputs": images, "targets": np.arange(120), **texts}
    train, test = kmm.data.split(tf.data.Dataset.from_tensor_slices(rows), 0.5, seed=3)
    assert set(train.element_spec) == set(rows)
    sides = [{target // 3 for target in targets(part)} for part in (train, test)]
    assert not sides[0] & sides[1] and all(sides)


def test_bad_arguments():
    for wrong in (0, 1, -0.1, True, "0.1"):
        with pytest.raises(ValueError, match=rf"`test` must be between 0 and 1.*test={wrong!r}"):
            kmm.data.split(texts(3), test=wrong)
    with pytest.raises(ValueError, match="`seed` must be an integer.*seed=0.5"):
        kmm.data.split(texts(3), seed=0.5)
    with pytest.raises(ValueError, match="`dataset` must have elements with the keys"):
        kmm.data.split(texts(3).map(lambda example: example["inputs"]))
