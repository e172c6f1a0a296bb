"""What a whole model keeps: several tasks, stacks and modality nets at once."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.small_models import (
    build,
    make_batch,
    make_tasks,
    max_difference,
    numpy_outputs,
    set_weights,
)

FEW = settings(deadline=None, max_examples=3)
WRITERS = ("copy", "shorten", "speech")


@pytest.fixture(scope="module")
def model():
    return set_weights(build())


def predict(model, x):
    return numpy_outputs(model(x, training=False))


def pad(x, y, rows, positions):
    """Adds rows and positions of padding, of the latter fewer with each task."""
    more_x, more_y = {}, {}
    for i, (name, arrays) in enumerate(x.items()):
        added = positions // (i + 1)
        more_x[name] = {}
        for key, array in arrays.items():
            lengths = [(0, rows)]
            if array.ndim == 2:
                lengths.append(
                    (0, 4 * added + 2 if name == "speech" and key == "inputs" else added)
                )
            lengths += [(0, 0)] * (array.ndim - len(lengths))
            more_x[name][key] = np.pad(array, lengths)
        more_y[name] = more_x[name].get(
            "targets", np.pad(y[name], (0, rows)) if y[name].ndim < 2 else None
        )
    return more_x, more_y


def real_only(outputs, y):
    """Returns the logits of real targets: `(positions, vocabulary)` per task."""
    return {
        name: outputs[name][: len(y[name]), : y[name].shape[1]][y[name] != 0]
        if y[name].ndim > 1
        else outputs[name][: len(y[name])]
        for name in outputs
    }


@FEW
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    rows=st.integers(0, 2),
    positions=st.integers(1, 9),
)
def test_1_padding_changes_no_real_position(model, lengths, rows, positions):
    x, y = make_batch(model.tasks.values(), lengths)
    before = real_only(predict(model, x), y)
    after = real_only(predict(model, pad(x, y, rows, positions)[0]), y)
    assert max_difference(before, after) < 1e-5


@FEW
@given(positions=st.integers(1, 9), rows=st.integers(1, 3))
def test_1_padding_takes_no_part_in_a_loss(model, positions, rows):
    x, y = make_batch(model.tasks.values())
    losses = []
    for inputs, targets in ((x, y), pad(x, y, rows, positions)):
        logits = predict(model, inputs)
        losses.append(
            [float(model.tasks[name].loss()(targets[name], logits[name])) for name in WRITERS]
        )
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_1_padding_takes_no_part_in_the_loss_of_the_experts(model):
    x, y = make_batch(model.tasks.values())
    routers = [model.body.encoder.experts.router, model.body.decoder.experts.router]
    scales = [router.noise_scale for router in routers]
    losses = []
    for router in routers:
        router.noise_scale = 0.0
    for inputs in (x, pad(x, y, 2, 7)[0]):
        # Images have no padding: their rows must be the same.
        inputs = {**inputs, "digits": x["digits"]}
        model(inputs, training=True)
        losses.append([float(loss) for loss in model.losses])
    for router, scale in zip(routers, scales):
        router.noise_scale = scale
    assert len(losses[0]) == 2 and min(losses[0]) > 0
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@FEW
@given(t=st.integers(0, 5), seed=st.integers(0, 9))
def test_2_no_logits_see_the_target_they_predict_or_a_later_one(model, t, seed):
    x, y = make_batch(model.tasks.values(), (6, 6), seed)
    for name in WRITERS:
        x[name]["targets"] = np.resize([2, 3, 4, 5, 6], (2, 7)).astype("int32")
    changed = {name: dict(arrays) for name, arrays in x.items()}
    for name in WRITERS:
        ids = x[name]["targets"].copy()
        ids[:, t:] = np.where(ids[:, t:] == 2, 6, 2)
        changed[name]["targets"] = ids
    before, after = predict(model, x), predict(model, changed)
    for name in WRITERS:
        # Logits at t are made from the targets before t.
        np.testing.assert_allclose(after[name][:, : t + 1], before[name][:, : t + 1], atol=1e-5)
        assert np.abs(after[name][:, t + 1 :] - before[name][:, t + 1 :]).max() > 1e-3


@FEW
@given(others=st.integers(1, 4), seed=st.integers(1, 99))
def test_3_an_example_does_not_depend_on_the_rest_of_its_batch(model, others, seed):
    one, _ = make_batch(model.tasks.values(), (5,))
    rest, _ = make_batch(model.tasks.values(), (5,) * others, seed)
    joined = {
        name: {key: np.concatenate([rest[name][key], one[name][key]]) for key in one[name]}
        for name in one
    }
    together = {name: value[-1:] for name, value in predict(model, joined).items()}
    assert max_difference(together, predict(model, one)) < 1e-5


def test_3_a_task_does_not_depend_on_the_other_tasks(model):
    x, _ = make_batch(model.tasks.values(), (5, 3))
    whole = predict(model, x)
    for name in x:
        alone = predict(model.task_model(name), {name: x[name]})
        assert max_difference(alone, whole) < 1e-5


def test_6_finite_under_mixed_bfloat16_with_rows_of_padding():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = set_weights(build(make_tasks()))
        model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
        x, y = make_batch(model.tasks.values())
        x, y = pad(x, y, 1, 2)
        history = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history
        assert all(np.all(np.isfinite(values)) for values in history.values())
        assert all(np.all(np.isfinite(v)) for v in predict(model, x).values())
        assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())
    finally:
        keras.config.set_dtype_policy("float32")
