"""Memory of a process that reads 200,000 generated examples through a mixture.

Reads three mixtures, ten epochs each: without a position, with a position and a schedule, and with
a token budget. Prints the resident memory after every epoch: it must not grow.

Usage: python benchmarks/mixture_memory.py [examples]
"""

import os
import sys
import time

import numpy as np
import tensorflow as tf

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


def main(examples: int) -> None:
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


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
