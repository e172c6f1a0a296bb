"""Tasks that read and write numbers, labels and series, from raw values to raw values."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_multimodel import Task, data
from keras_multimodel.layers import (
    BackboneModality,
    LabelsModality,
    NumberModality,
    SeriesModality,
)
from keras_multimodel.models import training
from keras_multimodel.models.validation import check_values
from tests.models.small_models import HIDDEN_DIM, build, make_batch

NAN = float("nan")


def make_tasks():
    prices = data.NumberPreprocessor.fit([9.0, 19.0, 1999.0], logarithm=True)
    number = NumberModality(HIDDEN_DIM, preprocessor=prices, name="number")
    tags = data.LabelsPreprocessor(["red", "large", "new"])
    labels = LabelsModality(3, HIDDEN_DIM, preprocessor=tags, name="labels")
    series = SeriesModality(
        HIDDEN_DIM, 2, patch_size=2, preprocessor=data.SeriesPreprocessor(2), name="series"
    )
    return [
        Task("price", labels, number),
        Task("tags", series, labels),
        Task("again", number, number),
    ]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = build(make_tasks(), num_encoder_blocks=1, moe=None)
    model.compile("adam")
    model.fit(*make_batch(model.tasks.values()), epochs=2, verbose=0)
    return model


def test_fits_and_reports_in_raw_units(model):
    logs = model.evaluate(*make_batch(model.tasks.values()), verbose=0, return_dict=True)
    assert {"price_mae", "price_r2", "tags_f1", "again_loss"} <= set(logs)
    assert all(np.isfinite(value) for value in logs.values())


def test_generates_raw_values_and_scores_them(model):
    (price,) = model.generate("price", ["red|new"])
    assert isinstance(price, float)
    near, far = model.score("price", ["red|new"] * 2, [price, 9 * price])
    assert near == pytest.approx(0, abs=1e-4) and far < near
    (tags,) = model.generate("tags", [np.ones((3, 2))])
    scores = model.score("tags", [np.ones((3, 2))] * 2, [tags, list({"red", "large"} - {*tags})])
    assert scores[0] > scores[1]


def test_a_missing_target_is_no_part_of_the_loss(model):
    x, y = make_batch(model.tasks.values(), (4, 4, 4))
    x, y = (
        {"price": part["price"], "tags": part["tags"], "again": part["again"]} for part in (x, y)
    )
    cut = lambda tree: keras.tree.map_structure(lambda a: a[:2], tree)  # noqa: E731
    outputs, less = model(x, training=False), model(cut(x), training=False)
    whole = model.compute_loss(x, y, outputs, training=False)
    part = model.compute_loss(cut(x), cut(y), less, training=False)
    assert float(whole) == pytest.approx(float(part), rel=1e-5)


def test_saves_and_loads(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.generate("price", ["red|new"]) == pytest.approx(
        model.generate("price", ["red|new"])
    )
    assert loaded.tasks["price"].metrics()[0].get_config()["logarithm"]


def test_encodes_and_mixes_raw_values(model):
    task = model.tasks["price"]
    raw = tf.data.Dataset.from_tensor_slices(
        {"inputs": ["red", "", "new|large"], "targets": [9.0, NAN, float("inf")]}
    )
    bad = data.BadExamples()
    encoded = data.encode(raw, task, on_bad="skip", report=bad)
    x, y = next(iter(data.batch(encoded, "price", 3)))
    assert list(x["price"]) == ["inputs"] and y["price"].shape == (2, 1)
    assert bad.counts == {"not finite": 1}
    with pytest.raises(ValueError, match=r"`inputs\[0\]` must be finite numbers"):
        model.generate("again", [float("inf")])


def test_refuses_an_infinite_number_in_arrays_and_data_sets(model):
    x, y = make_batch(model.tasks.values())
    y["price"][1] = np.inf
    message = r"`y\['price'\]` must hold finite numbers, or NaN for a gap. Received: inf"
    with pytest.raises(ValueError, match=message):
        model.evaluate(x, y, verbose=0)
    with pytest.raises(ValueError, match=message):
        model.evaluate(tf.data.Dataset.from_tensors((x, y)), verbose=0)


def test_trains_in_half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(make_tasks(), num_encoder_blocks=1, moe=None)
    finally:
        keras.config.set_dtype_policy(before)
    outputs = model(make_batch(model.tasks.values())[0])
    assert isinstance(model, training.MultiTaskTraining)
    for output in outputs.values():
        assert np.isfinite(ops.convert_to_numpy(ops.cast(output, "float32"))).all()


@pytest.mark.parametrize("quantized", [False, True])
def test_adapters_of_these_nets_survive_a_file(quantized, tmp_path):
    tasks = make_tasks()
    pictures = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(5, 2)])
    tasks.append(Task("rating", BackboneModality(pictures, HIDDEN_DIM), tasks[0].targets))
    model = build(tasks, num_encoder_blocks=1, moe=None)
    if quantized:
        model.quantize("int8")
    model.enable_lora(2)
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) / 4)
    nets = ("number/head", "labels/hidden", "series/dense", "projection")
    paths = " ".join(weight.path for weight in model.trainable_weights)
    assert all(f"{name}/lora" in paths for name in nets)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x, _ = make_batch(tasks[:-1], (2, 2, 2))
    x["rating"] = {"inputs": rng.normal(size=(2, 4, 4, 3)).astype("float32")}
    for name, outputs in model(x, training=False).items():
        ours, theirs = (ops.convert_to_numpy(y) for y in (outputs, loaded(x, training=False)[name]))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_number_that_float32_cannot_hold_is_refused():
    number = NumberModality(8)
    tasks = {"size": Task("size", number, number)}
    check_values(tasks, {"size": {"inputs": np.array([[np.nan], [1e30]])}})
    with pytest.raises(ValueError, match=r"or NaN for a gap. Received: 1e\+300"):
        check_values(tasks, {"size": {"inputs": np.array([[np.nan], [1e300]])}})
