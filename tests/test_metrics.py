import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.metrics import LogPerplexity, TokenAccuracy, TopKAccuracy
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
