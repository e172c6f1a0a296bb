"""One of the workers that `test_several_machines.py` starts; it prints what it found as JSON.

The steps train one task each, with a token budget; then all tasks are evaluated together. The
training is cut after an epoch, and resumed by a model with other weights.

The sums of two workers differ in their last digit from those of one process, and where two gates
are close that digit gives a token to another expert. So TensorFlow computes in float64. On JAX,
where XLA fails to share out an indexed read in float64, each token goes to all experts instead.
"""

import contextlib
import json
import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_multimodel as kmm
from keras_multimodel.layers import MoELayer, NoisyTopKRouter
from keras_multimodel.ops.workers import for_devices, for_keras
from tests.models.small_models import HIDDEN_DIM, build, ids, make_tasks, set_weights

SIZES = {"copy": 13, "topic": 9}  # odd, so that rows do not divide


def datasets():
    """Returns examples whose first ids are the digits of their numbers, in base 9."""
    rng = np.random.default_rng(0)
    found = {}
    for task, size in SIZES.items():
        rows = ids(rng, [4, 6] * size, 11)[:size]
        rows[:, 0], rows[:, 1] = 2 + np.arange(size) // 9, 2 + np.arange(size) % 9
        rows = [row[row > 0] for row in rows]
        targets = [row[1:] if task == "copy" else np.int32(k % 5) for k, row in enumerate(rows)]
        found[task] = _dataset(rows, targets)
    return found


def _dataset(inputs, targets):
    spec = [
        tf.TensorSpec([None] * np.ndim(part[0]), "int32", name)
        for name, part in (("inputs", inputs), ("targets", targets))
    ]
    examples = [{"inputs": x, "targets": y} for x, y in zip(inputs, targets)]
    data = tf.data.Dataset.from_generator(
        lambda: iter(examples),
        output_signature={s.name: tf.TensorSpec(s.shape, s.dtype) for s in spec},
    )
    return data.apply(tf.data.experimental.assert_cardinality(len(examples)))


def mixture(position=None):
    """Returns steps of one task each: "copy" with a token budget, "topic" with 3 examples."""
    return kmm.data.mix(
        datasets(),
        batch_size=3,
        token_budget={"copy": 36},
        lengths=1,
        schedule=kmm.data.schedules.Proportional(),
        position=position,
    )


def numbers(distribution):
    """Returns the numbers of the examples of a pass over each task that this worker trains."""
    found = {}
    for task, examples in datasets().items():
        data = kmm.data.mix({task: examples}, token_budget=33, lengths="dynamic")
        found[task] = []
        for rows in _inputs_here(data.map(lambda x, _, task=task: x[task]["inputs"]), distribution):
            found[task] += [int(9 * (r[0] - 2) + r[1] - 2) for r in rows if r.any()]
    return found


def _inputs_here(data, distribution):
    if keras.backend.backend() == "jax":
        yield from for_devices(data).as_numpy_iterator()
    elif distribution is None:
        yield from data.as_numpy_iterator()
    else:
        for rows in for_keras(distribution).experimental_distribute_dataset(data):
            (rows,) = distribution.experimental_local_results(rows)
            yield rows.numpy()


def make_model(distribution, seed, top_k):
    """Returns a small model with four experts, with or without a strategy."""
    with distribution.scope() if distribution else contextlib.nullcontext():
        router = NoisyTopKRouter(4, top_k, noise_scale=0.0)
        sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "conv_block": None}
        tasks = make_tasks("copy", "topic")
        model = build(tasks, moe=MoELayer(HIDDEN_DIM, 4, top_k, router=router), **sizes)
        set_weights(model, seed)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.5))
    return model


class KillAt(keras.callbacks.Callback):
    """Kills this process in the middle of a training."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def run(distribution, directory, float64):
    """Trains, is cut, resumes and evaluates.

    Args:
        distribution: what `kmm.distribution.initialize` returned, or None.
        directory: where the state is kept.
        float64: whether to compute in float64, with two experts for a token, and not all four.

    Returns:
        the model, and what was found.
    """
    keras.config.set_dtype_policy("float64" if float64 else "float32")
    model = make_model(distribution, seed=0, top_k=2 if float64 else 4)
    losses = []
    for epochs in (1, 2):
        position = kmm.data.Position()
        resume = kmm.callbacks.Resume(directory, position)
        history = model.fit(mixture(position), epochs=epochs, verbose=0, callbacks=[resume])
        losses += history.history["loss"]
        if epochs == 1:
            set_weights(model, seed=1)  # what a new process would have: `Resume` replaces them
    joint = kmm.data.mix(datasets(), shares={"copy": 4, "topic": 3}, lengths=1, shuffle=False)
    scores = model.evaluate(joint, verbose=0, return_dict=True)
    return model, {"losses": losses, "scores": scores, "numbers": numbers(distribution)}


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    here = kmm.distribution.initialize()
    number = int(os.environ["KERAS_DISTRIBUTION_PROCESS_ID"])
    # Only the chief reads and writes: the other worker has a directory of its own.
    float64 = keras.backend.backend() == "tensorflow"
    trained, result = run(here, os.path.join(sys.argv[1], str(number)), float64)
    print("RESULT", json.dumps(result), flush=True)
    trained.fit(mixture(), epochs=1000, verbose=0, callbacks=[KillAt()] if number else [])
