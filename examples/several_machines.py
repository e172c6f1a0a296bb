"""Trains one model on several machines; run alone, with two processes on this one.

`python examples/several_machines.py` starts two workers here, on TensorFlow; with
`KERAS_BACKEND=jax` in front, on JAX. `--workers 1` trains in one process. With `--float64`, on
TensorFlow, the losses are the same; in float32 the sum of two workers differs in its last digit
from that of one, which now and then gives a token to another expert. Where the environment names
the workers (`TF_CONFIG`, or `KERAS_DISTRIBUTION_JOB_ADDRESSES`; see docs/several_machines.md), the
process is one of them. Kill a worker, and the other ends with an error; start again, and training
continues where it was saved last.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import keras

import keras_multimodel as kmm

WIDTH = 32
ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
INDEX = "KERAS_DISTRIBUTION_PROCESS_ID"


def start_here(count: int) -> int:
    """Runs this script once for each worker, on free ports, and returns the first error code."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    workers = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env={**os.environ, ADDRESSES: addresses, INDEX: str(index)},
        )
        for index in range(count)
    ]
    print("processes:", *(worker.pid for worker in workers), flush=True)
    return next(filter(None, [worker.wait() for worker in workers]), 0)


def make_model() -> kmm.MultiModel:
    """Returns a small model of digits and of spelled words."""
    pixels = kmm.data.ImagePreprocessor((28, 28))
    image = kmm.layers.ImageModality(WIDTH, (28, 28, 3), num_blocks=1, preprocessor=pixels)
    labels = kmm.data.CategoryPreprocessor(range(10))
    english = (text.decode() for text, _ in pairs("train").as_numpy_iterator())
    letters = kmm.data.train_text_preprocessor(english, 80, "char", byte_fallback=False)
    text = kmm.layers.TextModality(letters.vocabulary_size, WIDTH, preprocessor=letters)
    # Without noise and dropout, which each worker would draw for its own rows, the losses are those
    # of one process.
    router = kmm.layers.NoisyTopKRouter(4, 2, noise_scale=0.0)
    return kmm.MultiModel(
        [
            kmm.Task("digits", image, kmm.layers.CategoryModality(10, WIDTH, preprocessor=labels)),
            kmm.Task("copy", text, text),
        ],
        WIDTH,
        kmm.layers.ConvBlock(WIDTH, (3, 3), dilation_rates=(1, 1), dropout=0.0),
        kmm.layers.AttentionBlock(WIDTH, num_heads=2),
        kmm.layers.MoELayer(WIDTH, 4, 2, router=router),
        num_encoder_blocks=1,
        num_mixer_blocks=0,
        num_decoder_blocks=1,
    )


def pairs(split: str):
    """Returns short English sentences, as inputs and as targets."""
    import tensorflow as tf

    english = kmm.datasets.load("en_de", split).map(lambda example: example["inputs"])
    short = english.filter(lambda text: tf.strings.length(text) < 40).take(200)
    return short.map(lambda text: (text, text))


def examples(model: kmm.MultiModel, split: str) -> dict:
    """Returns encoded examples of each task."""
    raw = {
        "digits": kmm.datasets.load("digits", split).take(300),
        "copy": pairs(split).map(lambda inputs, targets: {"inputs": inputs, "targets": targets}),
    }
    return {
        name: kmm.data.encode(data, model.tasks[name], cache=True) for name, data in raw.items()
    }


def train(arguments: argparse.Namespace, distribution) -> dict:
    """Trains and evaluates as one worker of several, or alone; returns the losses."""
    keras.utils.set_random_seed(0)
    with distribution.scope() if distribution else contextlib.nullcontext():
        model = make_model()
        model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0))
    position = kmm.data.Position()
    data, options = examples(model, "train"), {"position": position, "lengths": 2}
    if arguments.schedule:
        schedule = kmm.data.schedules.Proportional()
        options.update(batch_size=24, token_budget={"copy": 1200}, schedule=schedule)
    else:
        options.update(shares={"digits": 24, "copy": 16})
    callbacks = []
    if arguments.directory:
        callbacks = [kmm.callbacks.Resume(arguments.directory, position, save_freq=5)]
    verbose = 0 if int(os.environ.get(INDEX, 0)) else 2
    history = model.fit(
        kmm.data.mix(data, **options),
        epochs=arguments.epochs,
        callbacks=callbacks,
        verbose=verbose,
    )
    test = kmm.data.mix(examples(model, "test"), batch_size=32, lengths=2, shuffle=False)
    scores = model.evaluate(test, verbose=0, return_dict=True)
    return {"history": history.history, "scores": scores}


def main() -> None:
    """Reads the arguments; starts the workers, or trains as one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes on this machine")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--directory", help="where `Resume` keeps its states")
    parser.add_argument("--schedule", action="store_true", help="a task a step, with token budget")
    parser.add_argument("--float64", action="store_true", help="compute in float64; not JAX")
    parser.add_argument("--losses", type=pathlib.Path, help="file for the losses, as JSON")
    arguments = parser.parse_args()
    if arguments.float64:
        keras.config.set_dtype_policy("float64")
    told = ADDRESSES in os.environ or "TF_CONFIG" in os.environ
    if not told and arguments.workers > 1:
        sys.exit(start_here(arguments.workers))
    result = train(arguments, kmm.distribution.initialize() if told else None)
    if int(os.environ.get(INDEX, 0)) == 0:
        print(json.dumps(result["scores"], indent=1))
        if arguments.losses:
            arguments.losses.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
