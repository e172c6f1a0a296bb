"""What `compile` and optimizers offer works with every weighting, and with schedules."""

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from tests.models.small_models import HIDDEN_DIM
from tests.weighting.toy import make_batch, make_model, numpy

METHODS = {
    "none": lambda: None,
    "uncertainty": kmm.weighting.Uncertainty,
    "dwa": kmm.weighting.DWA,
    "grad_norm": kmm.weighting.GradNorm,
    "pc_grad": kmm.weighting.PCGrad,
}
on_tensorflow = keras.backend.backend() == "tensorflow"
every_method = pytest.mark.parametrize(
    "name", METHODS if on_tensorflow else ["none", "uncertainty", "dwa"]
)


def weights_of(model):
    return [numpy(weight) for weight in model.trainable_weights]


def trained(name, batches, **options):
    """Returns the weights after one step on each batch."""
    model = make_model(moe=kmm.layers.MoELayer(HIDDEN_DIM, 4, 2, router="top_k"))
    optimizer = keras.optimizers.SGD(0.1, **options)
    model.compile(optimizer, task_weighting=METHODS[name](), run_eagerly=on_tensorflow)
    before = weights_of(model)
    after = []
    for batch in batches:
        model.train_on_batch(*batch)
        after.append(weights_of(model))
    return before, after


@pytest.mark.slow
@every_method
def test_gradient_accumulation_steps(name):
    """Two accumulated steps are one step along the mean of their gradients."""
    first, second = make_batch(4), make_batch(8)
    before, (held, after) = trained(name, [first, second], gradient_accumulation_steps=2)
    for start, weight in zip(before, held):
        np.testing.assert_array_equal(weight, start)
    if name in ("grad_norm", "dwa"):  # their factors have moved by the second step
        assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(before, after))
        return
    alone = [trained(name, [batch])[1][0] for batch in (first, second)]
    for weight, *apart in zip(after, *alone):
        np.testing.assert_allclose(weight, np.mean(apart, axis=0), atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not on_tensorflow, reason="one backend: Keras' own loop over the steps")
@pytest.mark.parametrize("name", ["none", "grad_norm"])
def test_steps_per_execution(name):
    """Six steps in two calls of the program are six steps."""
    results = []
    for steps in (1, 3):
        model = make_model()
        options = {"task_weighting": METHODS[name](), "steps_per_execution": steps}
        model.compile(keras.optimizers.SGD(0.1), **options)
        model.fit(_dataset(), epochs=1, steps_per_epoch=6, verbose=0)
        results.append(weights_of(model))
    for one, three in zip(*results):
        np.testing.assert_allclose(three, one, atol=1e-6)


def _dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(make_batch()).repeat()


@every_method
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(name, policy):
    keras.config.set_dtype_policy(policy)
    try:
        before, (after,) = trained(name, [make_batch()])
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.isfinite(weight).all() for weight in after)
    assert any((a != b).any() for a, b in zip(before, after))


@pytest.mark.slow
def test_a_schedule_with_all_of_them():
    """One task a step, accumulated over two steps, in bfloat16."""
    x, y = make_batch(8)
    data = {name: _rows(x[name]["inputs"], y[name]) for name in x}
    mixture = kmm.data.mix(data, batch_size=4, schedule=kmm.data.schedules.Proportional(), seed=0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model()
        optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2)
        weighting = kmm.weighting.Uncertainty()
        model.compile(optimizer, task_weighting=weighting, run_eagerly=on_tensorflow)
        losses = model.fit(mixture.repeat(), epochs=6, steps_per_epoch=4, verbose=0).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def _rows(inputs, targets):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": targets})
