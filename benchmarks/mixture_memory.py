"""Memory of a process that reads, trains or generates for long: it must not grow.

Usage: python benchmarks/mixture_memory.py [mixtures | fits | generate] [--count]

- `mixtures`: 200,000 generated examples through a mixture, ten epochs, in each of three ways:
  without a position, with a position and a schedule, and with a token budget.
- `fits`: 100 fits of one model, each on a new mixture.
- `generate`: 1,000 calls with inputs of random lengths up to 200 ids, and random lengths to write.

Prints the resident memory on the way; for fits also how much it has grown since the tenth, and for
`generate` since the fiftieth.
"""

import argparse
import os
import time

import keras
import numpy as np
import tensorflow as tf

import keras_multimodel as kmm
from keras_multimodel import data

ROWS = 50
EPOCHS = 10
WAYS = {
    "plain": {"batch_size": 2 * ROWS},
    "position and schedule": {
        "batch_size": 2 * ROWS,
        "position": data.Position(),
        "schedule": data.schedules.Uniform(),
    },
    "token budget": {"token_budget": 40 * ROWS, "position": data.Position()},
}
COUNTS = {"mixtures": 200_000, "fits": 100, "generate": 1000}


def generated(examples: int, seed: int) -> tf.data.Dataset:
    """Returns a data set of unknown size: sequences of 10 to 50 ids."""

    def generate():
        random = np.random.default_rng(seed)
        for _ in range(examples):
            ids = random.integers(2, 100, random.integers(10, 51)).astype("int32")
            yield {"inputs": ids, "targets": ids[:10]}

    spec = {key: tf.TensorSpec((None,), tf.int32) for key in ("inputs", "targets")}
    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def resident() -> float:
    """Returns the resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def mixtures(examples: int) -> None:
    """Reads the examples of two tasks, half of them each, with each mixture; prints the memory."""
    steps = examples // (2 * ROWS * EPOCHS)
    for name, arguments in WAYS.items():
        sets = {task: generated(examples // 2, seed) for seed, task in enumerate("ab")}
        mixed = data.mix(sets, steps=steps, buffer_size=1000, **arguments)
        read, start = 0, time.perf_counter()
        print(f"{name}: {EPOCHS} epochs of {steps} steps")
        for _ in range(EPOCHS):
            read += sum(len(y["a"]) + len(y["b"]) for _, y in mixed)
            seconds = time.perf_counter() - start
            print(f"{read:>8} examples  {resident():7.1f} MiB  {read / seconds:7.0f} a second")


def make_model() -> kmm.MultiModel:
    """Returns a small compiled model of two tasks that write sequences."""
    text = kmm.layers.TextModality(100, 16)
    tasks = [kmm.Task(name, text, text, max_target_length=50) for name in "ab"]
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    blocks = {"conv_block": None, "attention_block": kmm.layers.AttentionBlock(16, num_heads=2)}
    model = kmm.MultiModel(tasks, 16, moe=kmm.layers.MoELayer(16, 4, 2), **blocks, **sizes)
    model.compile(keras.optimizers.Adam(1e-3))
    return model


def fits(count: int) -> None:
    """Fits a model on one new mixture after another; prints the memory."""
    model = make_model()

    def fit(seed):
        sets = {task: generated(40, seed) for task in "ab"}
        mixed = data.mix(sets, batch_size=8, steps=4, seed=seed, lengths={"a": [50], "b": [50]})
        model.fit(mixed, verbose=0)

    watch(fit, count, first=10)


def generate(count: int) -> None:
    """Calls `generate` with random lengths; prints the memory."""
    model = make_model()
    random = np.random.default_rng(0)

    def call(_):
        lengths = random.integers(1, 201, random.integers(1, 9))
        rows = [random.integers(2, 100, length) for length in lengths]
        model.generate("ab"[random.integers(2)], rows, max_length=int(random.integers(1, 101)))

    watch(call, count, first=50)


def watch(call, count: int, first: int) -> None:
    """Calls a function with 0, 1, ...; prints the memory, and its growth since the first calls."""
    start, before = time.perf_counter(), 0.0
    for number in range(count):
        call(number)
        if number + 1 == first:
            before = resident()
        if (number + 1) % (count // 10) == 0 or number + 1 == first:
            seconds = time.perf_counter() - start
            print(f"{number + 1:>8} calls  {resident():7.1f} MiB  {seconds:5.0f} s", flush=True)
    print(f"{resident() - before:.1f} MiB more than after {first} calls")


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="mixtures", choices=COUNTS)
    parser.add_argument("--count", type=int, help="of examples, fits or calls")
    arguments = parser.parse_args()
    run = {"mixtures": mixtures, "fits": fits, "generate": generate}[arguments.what]
    run(arguments.count or COUNTS[arguments.what])


if __name__ == "__main__":
    main()
