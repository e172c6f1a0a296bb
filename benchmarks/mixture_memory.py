"""Memory of a process that reads 200,000 generated examples through a mixture.

    python benchmarks/mixture_memory.py [examples]

Prints the resident memory after every tenth of the examples: it must not grow.
"""

import os
import sys
import time

import numpy as np
import tensorflow as tf

from keras_multimodel import data

ROWS = 50


def generated(examples: int, seed: int) -> tf.data.Dataset:
    """Returns generated examples of unknown number: sequences of 10 to 50 ids."""

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
    """Reads the examples of two tasks, half of them each, and prints the memory."""
    sets = {name: generated(examples // 2, seed) for seed, name in enumerate("ab")}
    steps = examples // (2 * ROWS)
    mixed = data.mix(sets, batch_size=2 * ROWS, steps=steps, buffer_size=1000)
    start = time.perf_counter()
    for number, _ in enumerate(mixed, 1):
        if number % (steps // 10) == 0:
            read, seconds = number * 2 * ROWS, time.perf_counter() - start
            print(f"{read:>8} examples  {resident():7.1f} MiB  {read / seconds:7.0f} a second")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
