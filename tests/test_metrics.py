import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.metrics import (
    LabelsF1,
    LogPerplexity,
    MeanAbsoluteError,
    RSquared,
    TokenAccuracy,
    TopKAccuracy,
)
from tests.layers.modalities import conv_res_weights as golden

METRICS = [LogPerplexity, TokenAccuracy, TopKAccuracy]


def golden_values():
    file = golden.load("ix_losses_metrics")
    return file, file["in/labels"].reshape(4, 6), file["in/logits"].reshape(4, 6, 11)


def batch(rows, length, classes=7):
    rng = np.random.default_rng(rows * length)
    labels = rng.integers(1, classes, (rows, length))
    return labels, rng.normal(size=(rows, length, classes)).astype("float32")


@pytest.mark.parametrize(
    "metric, name, sign",
    [
        (LogPerplexity, "neg_log_ppl", -1),  # theirs is the negative one
        (TokenAccuracy, "accuracy", 1),
        (TopKAccuracy, "top5", 1),
    ],
)
def test_is_that_of_the_authors_code(metric, name, sign):
    file, labels, logits = golden_values()
    positions = metric().values(ops.convert_to_tensor(labels), ops.convert_to_tensor(logits))
    weights = labels != 0
    expected = file[f"out/{name}_scores"].reshape(4, 6) * weights * sign
    assert golden.relative_error(ops.convert_to_numpy(positions) * weights, expected) < 1e-4
    mean = metric(mask_id=0)
    mean.update_state(labels, logits)
    np.testing.assert_allclose(mean.result(), sign * file[f"out/{name}_mean"], rtol=1e-5)


def test_by_hand():
    labels = np.array([0, 1, 2])
    logits = np.log([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    results = {}
    for metric in (LogPerplexity(), TokenAccuracy(), TopKAccuracy(2)):
        metric.update_state(labels, logits)
        results[metric.name] = float(metric.result())
    # -(log 0.5 + log 0.3 + log 0.2) / 3; one of three is best; two of three are among two.
    assert results["log_perplexity"] == pytest.approx(-np.log(0.03) / 3, rel=1e-5)
    assert results["accuracy"] == pytest.approx(1 / 3)
    assert results["top_2_accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", METRICS)
def test_padding_and_the_cut_into_batches_change_nothing(metric):
    labels, logits = batch(4, 3)
    whole, parts = metric(mask_id=0), metric(mask_id=0)
    whole.update_state(labels, logits)
    parts.update_state(labels[:1], logits[:1])
    padding = [(0, 2), (0, 2)]
    parts.update_state(
        np.pad(labels[1:], padding), np.pad(logits[1:], [*padding, (0, 0)], constant_values=9)
    )
    np.testing.assert_allclose(parts.result(), whole.result(), rtol=1e-5)
    whole.reset_state()
    assert float(whole.result()) == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_sample_weights(metric):
    labels, logits = batch(2, 3)
    weighted, first = metric(mask_id=0), metric(mask_id=0)
    weighted.update_state(labels, logits, sample_weight=np.array([3.0, 0.0]))
    first.update_state(labels[:1], logits[:1])
    np.testing.assert_allclose(weighted.result(), first.result(), rtol=1e-5)


def test_fewer_classes_than_k_means_all():
    metric = TopKAccuracy(5)
    metric.update_state(*batch(2, 3, classes=3))
    assert float(metric.result()) == 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_comes_back_from_its_config(metric):
    original = metric(name="mine", mask_id=2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(original))
    assert (type(again), again.name, again.mask_id) == (metric, "mine", 2)
    assert getattr(again, "k", None) == getattr(original, "k", None)


NUMBERS = {"mean": [10.0, 0.0], "scale": [2.0, 5.0]}


def numbers(rows=12, seed=0):
    rng = np.random.default_rng(seed)
    y, predicted = rng.normal(size=(rows, 2)), rng.normal(size=(rows, 2))
    y[1, 0] = y[4] = float("nan")
    return y.astype("float32"), predicted.astype("float32")


def measured(metric, *batches):
    for batch in batches:
        metric.update_state(*batch)
    return float(metric.result())


@pytest.mark.parametrize("logarithm", [False, True])
def test_numbers_are_measured_in_raw_units(logarithm):
    def raw(x):
        x = x.astype("float64") * NUMBERS["scale"] + NUMBERS["mean"]
        return np.sign(x) * np.expm1(np.abs(x)) if logarithm else x

    y, predicted = numbers()
    error = raw(predicted) - raw(y)
    mae = MeanAbsoluteError(**NUMBERS, logarithm=logarithm)
    assert measured(mae, (y[:5], predicted[:5]), (y[5:], predicted[5:])) == pytest.approx(
        np.nanmean(np.abs(error)), rel=1e-4
    )
    r2 = RSquared(2, **NUMBERS, logarithm=logarithm)
    deviation = raw(y) - np.nanmean(raw(y), axis=0)
    expected = np.mean(1 - np.nansum(error**2, axis=0) / np.nansum(deviation**2, axis=0))
    assert measured(r2, (y[:5], predicted[:5]), (y[5:], predicted[5:])) == pytest.approx(
        expected, rel=1e-3
    )


def test_r_squared_of_nothing_and_of_a_constant_is_zero():
    assert float(RSquared().result()) == 0.0
    assert measured(RSquared(), (np.ones((3, 1)), np.ones((3, 1)))) == 0.0


def test_f1_is_that_of_counting():
    y = np.array([[1, 0, 1], [0, np.nan, 1]], "float32")
    logits = np.array([[2, 1, -1], [-1, 5, 1]], "float32")
    # Three labels present, three predicted that are known, two of both: 2 * 2 / 6.
    assert measured(LabelsF1(), (y, logits)) == pytest.approx(2 / 3)
    assert float(LabelsF1().result()) == 0.0


@pytest.mark.parametrize("metric", [MeanAbsoluteError(mean=[1.0]), RSquared(2), LabelsF1("f")])
def test_metrics_of_vectors_come_back(metric):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert again.get_config() == metric.get_config()
