"""Two replicas train as one device does, though they hold different numbers of tokens."""

import contextlib

import keras
import numpy as np
import pytest

from keras_multimodel.callbacks import ExpertUse
from keras_multimodel.layers import MoELayer, NoisyTopKRouter
from tests.models.row_models import make_batch, make_model
from tests.models.row_models import make_tasks as make_row_tasks
from tests.models.small_models import (
    HIDDEN_DIM,
    build,
    ids,
    make_tasks,
    numpy_outputs,
    set_weights,
)

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strategies are TensorFlow's"
)
STEPS = 20


def make_dataset():
    """Every batch of four has two long examples, for one replica, and two short, for the other."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    lengths = [7, 6, 2, 1] * STEPS
    text = ids(rng, lengths, 11)
    targets = ids(rng, [9, 4, 1, 3] * STEPS, 11)
    x = {"copy": {"inputs": text, "targets": targets}, "topic": {"inputs": text}}
    y = {"copy": targets, "topic": rng.integers(0, 5, len(lengths)).astype("int32")}
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4, drop_remainder=True)


def train(scope):
    """Returns the logs of 20 steps (one an epoch), the scores after them, the model, its use."""
    with scope:
        router = NoisyTopKRouter(4, 2, noise_scale=0.0)
        moe = MoELayer(HIDDEN_DIM, 4, 2, router=router, balance_loss_weight=0.1)
        sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0}
        model = set_weights(build(make_tasks("copy", "topic"), moe=moe, **sizes))
        # A limit under the first norms, so that clipping takes part.
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.5))
    use = ExpertUse(make_dataset(), batches=2, every=STEPS)
    history = model.fit(
        make_dataset(), steps_per_epoch=1, epochs=STEPS, verbose=0, callbacks=[use]
    ).history
    scores = model.evaluate(make_dataset(), verbose=0, return_dict=True)
    return history, scores, model, use.latest


@pytest.fixture(scope="module")
def one():
    return train(contextlib.nullcontext())


@pytest.fixture(scope="module")
def two(strategy):
    return train(strategy.scope())


def test_the_replicas_hold_different_numbers_of_tokens(strategy):
    """Else the tests below would also pass if each replica divided by its own count."""
    batches = strategy.experimental_distribute_dataset(make_dataset())
    x, _ = next(iter(batches))
    parts = strategy.experimental_local_results(x["copy"]["targets"])
    assert [int(np.count_nonzero(part)) for part in parts] == [13, 4]


def test_losses_are_those_of_one_device(one, two):
    history, again = one[0], two[0]
    assert len(history["loss"]) == STEPS
    for name in ("loss", "copy_loss", "topic_loss"):
        np.testing.assert_allclose(again[name], history[name], rtol=1e-5, err_msg=name)


def test_the_loss_of_the_experts_is_in_the_sum_and_that_of_one_device(one, two):
    def experts(history):
        tasks = np.add(history["copy_loss"], history["topic_loss"])
        return np.subtract(history["loss"], tasks)

    assert np.all(experts(one[0]) > 1e-3)
    # A difference of larger numbers: their 1e-5 is more than its own.
    np.testing.assert_allclose(experts(two[0]), experts(one[0]), atol=2e-5)


def test_metrics_and_statistics_of_the_experts_are_global(one, two):
    for mine, theirs in zip(one[:2], two[:2]):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_allclose(theirs[name], mine[name], rtol=1e-4, atol=1e-5, err_msg=name)
    tokens = [model.body.decoder.experts.expert_tokens.numpy() for _, _, model, _ in (one, two)]
    np.testing.assert_array_equal(*tokens)
    assert tokens[0].sum() == 2 * STEPS * (9 + 4 + 1 + 3)  # two experts a token, no padding


def test_the_experts_use_is_measured_as_on_one_device(one, two):
    assert set(one[3]) == set(two[3]) == {"encoder_experts", "decoder_experts"}
    for layer, by_task in one[3].items():
        for task, tokens in by_task.items():
            assert tokens.sum() > 0
            np.testing.assert_allclose(two[3][layer][task], tokens, atol=1)


def test_the_trained_models_predict_the_same(one, two):
    x, _ = next(iter(make_dataset()))
    outputs = [numpy_outputs(model(x, training=False)) for _, _, model, _ in (one, two)]
    for name in outputs[0]:
        np.testing.assert_allclose(outputs[1][name], outputs[0][name], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 1])
def test_rows_that_do_not_divide_among_the_replicas(strategy, rows):
    import tensorflow as tf

    def run(scope):
        with scope:
            sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0}
            model = set_weights(build(make_tasks("copy", "topic"), moe=None, **sizes))
            model.compile("sgd")
        rng = np.random.default_rng(0)
        text, targets = ids(rng, [5, 4, 6, 2][:rows], 11), ids(rng, [3, 1, 2, 4][:rows], 11)
        x = {"copy": {"inputs": text, "targets": targets}, "topic": {"inputs": text}}
        y = {"copy": targets, "topic": np.arange(rows, dtype="int32")}
        data = tf.data.Dataset.from_tensors((x, y)).repeat(2)
        batches = []
        keep = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: batches.append(dict(logs))
        )
        history = model.fit(data, verbose=0, callbacks=[keep]).history
        return history, model.evaluate(data, verbose=0, return_dict=True), *batches

    for mine, theirs in zip(run(contextlib.nullcontext()), run(strategy.scope()), strict=True):
        for name in mine:
            np.testing.assert_allclose(theirs[name], mine[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_rows_with_gaps(strategy):
    """The replicas have other gaps: one has no picture at all, and no price."""
    import tensorflow as tf

    x, y = make_batch([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 0]])
    y["price"][2:], y["kind"][1] = float("nan"), -1

    def run(scope):
        with scope:
            model = make_model(make_row_tasks()[:2], moe=None, num_mixer_blocks=0)
            model.compile("sgd")
        data = tf.data.Dataset.from_tensors(({"product": x["product"]}, {k: y[k] for k in names}))
        return model.fit(data.repeat(2), verbose=0).history

    names = ("kind", "price")
    mine, theirs = run(contextlib.nullcontext()), run(strategy.scope())
    assert set(mine) >= {"loss", "kind_accuracy", "price_mae"}
    for name in mine:
        np.testing.assert_allclose(theirs[name], mine[name], rtol=1e-5, err_msg=name)
