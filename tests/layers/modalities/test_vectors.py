"""Nets of numbers, labels and series: what holds for all of them, and each against NumPy."""

import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.layers import LabelsModality, NumberModality, SeriesModality
from keras_multimodel.losses import LabelsCrossentropy
from tests.models.small_models import set_weights

NAN = float("nan")


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def series(lengths=(5, 3), channels=2, seed=0):
    """Returns rows `(batch, steps, 2 * channels)` with one gap, and zeros at the end."""
    x = np.random.default_rng(seed).normal(size=(len(lengths), max(lengths), 2 * channels))
    x[..., channels:] = 1.0
    x[0, 1, 0] = x[0, 1, channels] = 0.0
    for row, length in zip(x, lengths):
        row[length:] = 0.0
    return x.astype("float32")


def test_numbers_are_read_as_numpy_reads_them():
    net, x = NumberModality(4, size=3), np.array([[2.0, NAN, -1.0]], "float32")
    net(x)
    kernel, bias = map(array, set_weights(net).weights)
    expected = np.nan_to_num(x)[..., None] * kernel + bias
    expected[0, 1] = 0.0  # a gap
    np.testing.assert_allclose(array(net(x)), expected, rtol=1e-6)
    np.testing.assert_array_equal(array(net.padding_mask(x)), [[1, 0, 1]])


def test_labels_are_read_as_numpy_reads_them():
    net, x = LabelsModality(3, 4), np.array([[1, 0, 1], [0, NAN, 0], [NAN] * 3], "float32")
    net(x)
    embeddings, bias = map(array, set_weights(net).weights)
    expected = np.stack([embeddings[0] + embeddings[2] + bias, bias, bias])[:, None]
    np.testing.assert_allclose(array(net(x)), expected, rtol=1e-5)
    np.testing.assert_array_equal(array(net.padding_mask(x)), [[1], [1], [0]])


def test_a_series_is_read_as_numpy_reads_it():
    net, x = SeriesModality(4, channels=2, patch_size=2), series()
    net(x)
    kernel, bias = map(array, set_weights(net).weights)
    padded = np.pad(x, [[0, 0], [0, 1], [0, 0]]).reshape(2, 3, 8)
    expected = padded @ kernel + bias
    expected[1, 2] = 0.0  # steps 4 and 5 of the second row
    np.testing.assert_allclose(array(net(x)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(array(net.padding_mask(x)), [[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize("patch_size", [1, 2, 3])
def test_padding_of_a_series_changes_nothing(patch_size):
    net, x = SeriesModality(4, channels=2, patch_size=patch_size), series()
    y = array(net(x))
    more = np.pad(x, [[0, 0], [0, 4], [0, 0]])
    np.testing.assert_allclose(array(net(more))[:, : y.shape[1]], y, atol=1e-6)
    assert not array(net.padding_mask(more))[:, y.shape[1] :].any()


def test_zeros_that_are_known_are_no_padding():
    x = np.zeros((1, 2, 2), "float32")
    x[..., 1] = 1.0
    assert array(SeriesModality(4).padding_mask(x)).all()


@pytest.mark.parametrize("net", [NumberModality(4, size=3), LabelsModality(3, 4)])
def test_writes_from_the_mean_of_real_positions(net):
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    net(x, reverse=True)
    w1, b1, w2, b2 = map(array, set_weights(net).weights)
    mask = np.arange(5) < [[5], [2]]
    mean = np.stack([x[0].mean(axis=0), x[1, :2].mean(axis=0)])
    expected = np.maximum(mean @ w1 + b1, 0) @ w2 + b2
    changed = np.where(mask[..., None], x, 7.0)
    np.testing.assert_allclose(array(net(changed, mask=mask, reverse=True)), expected, rtol=1e-4)
    empty = array(net(x, mask=np.zeros((2, 5), bool), reverse=True))
    assert np.isfinite(empty).all()


def test_predictions_and_scores():
    numbers, labels = NumberModality(4, size=2), LabelsModality(2, 4)
    outputs, targets = np.array([[0.5, -3.0]], "float32"), np.array([[1.0, NAN]], "float32")
    np.testing.assert_allclose(array(numbers.prediction(outputs)), outputs)
    np.testing.assert_array_equal(array(labels.prediction(outputs)), [[1, 0]])
    # An error of 0.5 costs 0.5 ** 2 / 2; the log-sigmoid of 0.5. Gaps count nothing.
    assert array(numbers.log_probability(outputs, targets)) == pytest.approx(-0.125)
    expected = -np.log1p(np.exp(-0.5))
    assert array(labels.log_probability(outputs, targets)) == pytest.approx(expected, rel=1e-5)
    assert isinstance(labels.default_loss(), LabelsCrossentropy)
    assert [m.name for m in numbers.default_metrics()] == ["mae", "r2"]
    assert [m.name for m in labels.default_metrics()] == ["f1"]


@pytest.mark.parametrize("net", [NumberModality(4, 2), LabelsModality(2, 4), SeriesModality(4)])
def test_half_precision_takes_large_values(net):
    config = {**net.get_config(), "dtype": "mixed_float16"}
    half = type(net).from_config(config)
    shape = (1, 3, 2) if isinstance(net, SeriesModality) else (1, 2)
    y = half(np.ones(shape, "float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "float16" and np.isfinite(array(y)).all()


@pytest.mark.parametrize(
    "make, received",
    [
        (lambda: NumberModality(4, size=0), "size=0"),
        (lambda: LabelsModality(0, 4), "num_labels=0"),
        (lambda: SeriesModality(4, channels=0), "channels=0"),
        (lambda: SeriesModality(4, patch_size=1.5), "patch_size=1.5"),
        (lambda: NumberModality(4, size=2)(np.ones((3, 5))), "inputs.shape=(3, 5)"),
        (lambda: LabelsModality(2, 4)(np.ones((3,))), "inputs.shape=(3,)"),
        (lambda: SeriesModality(4)(np.ones((3, 5, 3))), "inputs.shape=(3, 5, 3)"),
    ],
)
def test_refuses(make, received):
    with pytest.raises(ValueError, match=f"Received: .*{re.escape(received)}"):
        make()
