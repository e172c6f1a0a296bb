"""The fit of the eight tasks on two replicas has the losses of one device.

In float64: two replicas add in another order than one device, and where a gate is close to
another, the last digit of a float32 decides who gets a token, and with it all steps that follow.
`test_mirrored_strategy.py` has a small model in float32, and metrics.
"""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_multimodel as kmm
from keras_multimodel.layers import NoisyTopKRouter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="strategies are TensorFlow's"
    ),
]
STEPS = 20
EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "eight_tasks.py"


@pytest.fixture(autouse=True)
def float64():
    """Computes in float64."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def example():
    """The module `examples/eight_tasks.py`."""
    spec = importlib.util.spec_from_file_location("eight_tasks", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.HIDDEN_DIM = 32
    return module


def build(example, tasks):
    """Returns a model of the tasks of the example with few blocks."""
    texts = [task.name for task in tasks if task.name not in ("digits", "emoji")]
    width = example.HIDDEN_DIM
    router = NoisyTopKRouter(8, 2, kernel_initializer="glorot_uniform", noise_scale=0.0)
    return kmm.MultiModel(
        tasks,
        width,
        conv_block=kmm.layers.ConvBlock(width, kernel_sizes=(3, 3), dropout=0.0),
        moe=kmm.layers.MoELayer(width, 8, 2, router=router),
        num_encoder_blocks=1,
        num_mixer_blocks=0,
        num_decoder_blocks=1,
        encoder_groups=[["digits", "emoji"], texts],
        decoder_groups=[["emoji", *texts]],
    )


def make_batches(tasks):
    """Returns a data set of a batch for each step, read and encoded once for both models."""
    data = {t.name: kmm.data.encode(kmm.datasets.load(t.name), t) for t in tasks}
    # Two examples of a task on each replica.
    shares = dict.fromkeys(data, 4)
    mixed = kmm.data.mix(data, shares=shares, shuffle=False, steps=STEPS)
    batches = list(mixed)
    return tf.data.Dataset.from_generator(lambda: batches, output_signature=mixed.element_spec)


def fit(model, batches):
    """Returns the history of epochs of one step each, so that each step's losses are in it."""
    rate = keras.optimizers.schedules.PolynomialDecay(0.0, 100, end_learning_rate=0.2)
    # Without metrics, which take long to trace for eight tasks on two replicas.
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=2.0)
    model.compile(optimizer, metrics={})
    return model.fit(batches, steps_per_epoch=1, epochs=STEPS, verbose=0).history


def test_losses_of_eight_tasks_are_those_of_one_device(example, strategy):
    tasks = example.make_tasks()
    model, batches = build(example, tasks), make_batches(tasks)
    with strategy.scope():
        replicated = kmm.MultiModel.from_config(model.get_config())
    replicated.set_weights(model.get_weights())
    one = fit(model, batches)
    with strategy.scope():
        two = fit(replicated, batches)
    losses = [name for name in one if name.endswith("loss")]
    assert len(losses) == 9 and len(one["loss"]) == STEPS
    for name in losses:
        # The losses themselves are float32.
        np.testing.assert_allclose(two[name], one[name], rtol=1e-6, err_msg=name)
    experts = [
        np.subtract(h["loss"], np.sum([h[n] for n in losses if n != "loss"], axis=0))
        for h in (one, two)
    ]
    assert np.all(experts[0] > 1e-3)
    # A difference of sums of about 40, of which 1e-5 is more than all of it.
    np.testing.assert_allclose(experts[1], experts[0], atol=4e-5)
