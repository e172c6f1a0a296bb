import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers import CategoryModality
from keras_multimodel.losses import (
    Huber,
    LabelsCrossentropy,
    LabelSmoothedCrossentropy,
    position_weights,
)
from keras_multimodel.metrics import TokenAccuracy, TopKAccuracy
from tests import references
from tests.layers.modalities import conv_res_weights as golden


def golden_values():
    file = golden.load("ix_losses_metrics")
    return file, file["in/labels"].reshape(4, 6), file["in/logits"].reshape(4, 6, 11)


def value(loss, *arguments, **named):
    return float(loss(*arguments, **named))


@pytest.mark.parametrize("smoothing", ["0", "0.1"])
def test_positions_are_those_of_the_authors_code(smoothing):
    file, labels, logits = golden_values()
    positions = LabelSmoothedCrossentropy(float(smoothing)).call(labels, logits)
    expected = file[f"out/xent_ls{smoothing}"].reshape(4, 6)
    weights = file[f"out/weights_ls{smoothing}"].reshape(4, 6)
    assert golden.relative_error(positions * weights, expected * weights) < 1e-4
    np.testing.assert_array_equal(ops.convert_to_numpy(position_weights(labels, 0)), weights)


def test_the_mean_is_that_of_the_authors_code():
    file, labels, logits = golden_values()
    loss = value(LabelSmoothedCrossentropy(0.1, mask_id=0), labels, logits)
    np.testing.assert_allclose(loss, file["out/modality_loss_ls0.1"], rtol=1e-5)


def test_all_labels_can_count():
    file, labels, logits = golden_values()
    total = value(LabelSmoothedCrossentropy(0.1), labels, logits) * labels.size
    np.testing.assert_allclose(total, file["out/xent_sum_all"], rtol=1e-5)


@settings(deadline=None, max_examples=15)
@given(
    length=st.integers(1, 5),
    classes=st.integers(2, 7),
    smoothing=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    scale=st.sampled_from([1.0, 30.0]),
)
def test_equals_float64(length, classes, smoothing, scale):
    rng = np.random.default_rng(length)
    labels = rng.integers(0, classes, (3, length))
    logits = (rng.normal(size=(3, length, classes)) * scale).astype("float32")
    positions = references.smoothed_crossentropy(labels, logits.astype("float64"), smoothing)
    real = labels != 0
    expected = positions[real].mean() if real.any() else 0.0
    loss = value(LabelSmoothedCrossentropy(smoothing, mask_id=0), labels, logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-4)


def test_a_perfect_prediction_costs_nothing():
    # Three classes, smoothing 0.2: the soft labels are 0.8, 0.1 and 0.1.
    logits = np.log([[0.8, 0.1, 0.1]]).astype("float32")
    assert abs(value(LabelSmoothedCrossentropy(0.2), np.array([0]), logits)) < 1e-6


def test_padding_takes_no_part():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(1, 5, (2, 3)), rng.normal(size=(2, 3, 5)).astype("float32")
    loss = LabelSmoothedCrossentropy(mask_id=0)
    padded = np.pad(labels, [(0, 2), (0, 4)])
    more = np.concatenate([logits, rng.normal(size=(2, 4, 5))], axis=1).astype("float32")
    more = np.concatenate([more, rng.normal(size=(2, 7, 5))]).astype("float32")
    np.testing.assert_allclose(value(loss, padded, more), value(loss, labels, logits), rtol=1e-5)


def test_only_padding_costs_nothing():
    loss = LabelSmoothedCrossentropy(mask_id=0)
    assert value(loss, np.zeros((2, 3), "int32"), np.ones((2, 3, 5), "float32")) == 0.0


@pytest.mark.parametrize("weights", [[1.0, 0.0], [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]])
def test_sample_weights_are_those_of_a_mean(weights):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(1, 5, (2, 3)), rng.normal(size=(2, 3, 5)).astype("float32")
    loss = LabelSmoothedCrossentropy(mask_id=0)
    weighted = value(loss, labels, logits, sample_weight=np.array(weights))
    np.testing.assert_allclose(weighted, value(loss, labels[:1], logits[:1]), rtol=1e-5)


def test_bfloat16_logits_are_scored_in_float32():
    logits = ops.cast(np.random.default_rng(0).normal(size=(2, 5)), "bfloat16")
    labels = np.array([1, 2])
    exact = value(LabelSmoothedCrossentropy(), labels, ops.cast(logits, "float32"))
    assert value(LabelSmoothedCrossentropy(), labels, logits) == exact


def test_comes_back_from_its_config():
    again = LabelSmoothedCrossentropy.from_config(
        LabelSmoothedCrossentropy(0.3, mask_id=2, name="mine").get_config()
    )
    assert (again.label_smoothing, again.mask_id, again.name) == (0.3, 2, "mine")


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_refuses_a_smoothing(smoothing):
    message = f"`label_smoothing` must be .* Received: label_smoothing={smoothing}"
    with pytest.raises(ValueError, match=message):
        LabelSmoothedCrossentropy(smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_a_single_class_costs_nothing(smoothing, shape):
    """There is no other class to smooth to, nor to be wrong with."""
    labels, logits = np.zeros(shape, "int32"), np.ones((*shape, 1), "float32")
    assert value(LabelSmoothedCrossentropy(smoothing), labels, logits) == 0.0


def test_two_classes_by_hand():
    # Soft labels 0.9 and 0.1, both logits equal: log(2), less the entropy of the soft labels.
    entropy = -0.9 * np.log(0.9) - 0.1 * np.log(0.1)
    loss = value(LabelSmoothedCrossentropy(0.1), np.array([0]), np.zeros((1, 2), "float32"))
    np.testing.assert_allclose(loss, np.log(2) - entropy, rtol=1e-5)


def test_a_net_of_one_class_trains():
    inputs = keras.Input((4, 8))
    model = keras.Model(inputs, CategoryModality(1, 8)(inputs, reverse=True))
    model.compile("sgd", LabelSmoothedCrossentropy(), metrics=[TopKAccuracy(), TokenAccuracy()])
    x = np.random.default_rng(0).normal(size=(2, 4, 8)).astype("float32")
    logs = model.fit(x, np.zeros(2, "int32"), verbose=0).history
    assert (logs["loss"], logs["accuracy"], logs["top_5_accuracy"]) == ([0.0], [1.0], [1.0])


NAN = float("nan")


def test_a_class_below_zero_is_a_gap():
    logits, labels = np.random.default_rng(0).normal(size=(3, 4)), np.array([2, -1, 0])
    loss = LabelSmoothedCrossentropy(0.1)
    assert value(loss, labels, logits) == pytest.approx(value(loss, labels[::2], logits[::2]))
    assert value(loss, np.array([-1]), logits[:1]) == 0.0


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_huber_is_that_of_numpy_without_gaps(delta):
    rng = np.random.default_rng(0)
    y, predicted = 2 * rng.normal(size=(6, 2)), 2 * rng.normal(size=(6, 2))
    y[1, 0] = y[3] = NAN
    error = np.abs(y - predicted)
    expected = np.where(error <= delta, 0.5 * error**2, delta * (error - 0.5 * delta))
    found = value(Huber(delta), y.astype("float32"), predicted.astype("float32"))
    assert found == pytest.approx(np.nanmean(expected), rel=1e-5)


def test_labels_crossentropy_is_that_of_numpy_without_gaps():
    rng = np.random.default_rng(0)
    y, logits = rng.integers(0, 2, (5, 3)).astype("float32"), 3 * rng.normal(size=(5, 3))
    y[0] = y[2, 1] = NAN
    p = 1 / (1 + np.exp(-logits))
    expected = np.nanmean(-(y * np.log(p) + (1 - y) * np.log(1 - p)))
    assert value(LabelsCrossentropy(), y, logits.astype("float32")) == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("loss", [Huber(0.5), LabelsCrossentropy()])
def test_losses_of_vectors_weigh_rows_and_need_none(loss):
    y, predicted = np.array([[1.0], [0.0]], "float32"), np.array([[0.2], [3.0]], "float32")
    weighed = value(loss, y, predicted, sample_weight=np.array([1.0, 0.0]))
    assert weighed == pytest.approx(value(loss, y[:1], predicted[:1]))
    assert value(loss, y * NAN, predicted) == 0.0
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()


def test_refuses_a_delta_of_zero():
    with pytest.raises(ValueError, match="`delta` must be positive.*Received: delta=0"):
        Huber(0)
