import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel.evaluation import mismatched, unigram_baseline


def test_by_hand():
    # Counts of 0, 1, 2 with one added each: 1, 3, 2 of 6. Held out: 1 and 2.
    baseline = unigram_baseline([np.array([1, 1]), np.array([2])], [np.array([1, 2])], size=3)
    assert baseline.log_perplexity == pytest.approx(-(np.log(3 / 6) + np.log(2 / 6)) / 2)
    assert baseline.accuracy == 0.5  # the most frequent is 1


def test_of_classes():
    baseline = unigram_baseline([0, 0, 1], [0, 1, 1, 1], size=2)
    assert baseline.accuracy == 0.25


@pytest.mark.parametrize(
    "train, held_out, argument, received",
    [
        ([], [1], "train", "none"),
        ([1], [], "held_out", "none"),
        ([1, 5], [1], "train", "1 to 5"),
        ([1], [-1], "held_out", "-1 to -1"),
    ],
)
def test_refuses_targets(train, held_out, argument, received):
    message = f"`{argument}` must hold ids from 0 to 2. Received: {received}"
    with pytest.raises(ValueError, match=message):
        unigram_baseline(train, held_out, size=3)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_mismatched_gives_every_target_another_input(size):
    numbers = tf.data.Dataset.range(size)
    pairs = mismatched(numbers.map(lambda i: {"inputs": i, "targets": i}))
    pairs = [(int(pair["inputs"]), int(pair["targets"])) for pair in pairs]
    assert [target for _, target in pairs] == list(range(size))
    assert sorted(value for value, _ in pairs) == list(range(size))
    assert all(value != target for value, target in pairs)


def test_mismatched_refuses_a_single_example():
    numbers = tf.data.Dataset.range(1).map(lambda i: {"inputs": i, "targets": i})
    with pytest.raises(ValueError, match="`dataset` must hold at least 2 .* Received: 1"):
        mismatched(numbers)
