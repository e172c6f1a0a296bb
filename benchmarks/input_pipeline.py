"""Whether the input of the eight-task demo keeps up with its training.

The data set alone and the training steps alone take turns in one process, since the speed of a
machine changes by the minute. Training reads batches that are already in memory. A cold epoch
encodes every example (audio and text); later epochs read the cache. Padding is that of an epoch of
joint steps, with a fixed number of examples of each task in a step and with a token budget.

Usage: python benchmarks/input_pipeline.py [--rounds 3] [--steps 10] [--examples 200000]
prints JSON: steps per second, ratios of medians, share of padding, resident memory in MB.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

import eight_tasks
import keras
import numpy as np

import keras_multimodel as kmm

SHARES = eight_tasks.SHARES
TOKEN_BUDGET = 1024  # positions of a task in a step, of its inputs and targets together


def encoded(tasks):
    """Encodes the training data of all tasks; nothing is read before the first pass."""
    return {
        task.name: kmm.data.encode(eight_tasks.examples(task.name), task, cache=True)
        for task in tasks
    }


def mixed(datasets):
    return kmm.data.mix(datasets, shares=SHARES, seed=1)


def bucketed(datasets):
    shares = {"digits": SHARES["digits"]}  # images and classes have no length
    return kmm.data.mix(datasets, shares=shares, token_budget=TOKEN_BUDGET, seed=1)


def read_epoch(dataset):
    """Returns steps per second of one epoch of the data set alone."""
    start = time.perf_counter()
    steps = sum(1 for _ in dataset)
    return steps / (time.perf_counter() - start)


class Training:
    """Steps of the demo's model on batches in memory."""

    def __init__(self, tasks, batches):
        self._model = eight_tasks.make_model(tasks)
        self._model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0))
        self._model.fit(batches, verbose=0)
        self._batches = iter(batches.cache().repeat())

    def steps_per_second(self, steps):
        start = time.perf_counter()
        for _ in range(steps):
            self._model.train_function(self._batches)
        return steps / (time.perf_counter() - start)


def speed(tasks, rounds, steps):
    """Takes turns: a cold epoch, a cached one, training steps."""
    training = Training(tasks, mixed(encoded(tasks)).take(steps))
    training.steps_per_second(steps)  # brings the batches into memory
    rates = {"cold": [], "cached": [], "training": []}
    for _ in range(rounds):
        data = mixed(encoded(tasks))
        rates["cold"].append(read_epoch(data))
        rates["cached"].append(read_epoch(data))
        rates["training"].append(training.steps_per_second(steps))
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    return {
        "steps_per_second": {name: round(value, 2) for name, value in medians.items()},
        "cold_over_training": round(medians["cold"] / medians["training"], 1),
        "cached_over_training": round(medians["cached"] / medians["training"], 1),
    }


def padding(mixture):
    """Returns the share of padding of each task, and of all, over one epoch."""
    report = kmm.data.report(mixture, progress=False)
    shares = {
        row["task"] + " " + row["part"]: row["padding"] for row in report.rows() if "padding" in row
    }
    return {"all": round(report.padding, 3)} | {k: round(v, 3) for k, v in shares.items()}


def resident_megabytes():
    """Returns the resident memory of the process; Linux only."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def memory(datasets, examples, samples=10):
    """Reads examples, and measures the memory after each of ten parts."""
    steps = -(-examples // sum(SHARES.values()))
    stream = iter(mixed(datasets).repeat())
    held = []
    for _ in range(samples):
        for _ in itertools.islice(stream, -(-steps // samples)):
            pass
        held.append(resident_megabytes())
    return {"examples": examples, "resident_mb": held, "growth_mb": round(held[-1] - held[0], 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="training steps in a round")
    parser.add_argument("--examples", type=int, default=200_000)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(1)
    tasks = eight_tasks.make_tasks()
    datasets = encoded(tasks)
    result = {"cores": len(os.sched_getaffinity(0)), "examples_per_step": sum(SHARES.values())}
    parts = {
        "speed": lambda: speed(tasks, arguments.rounds, arguments.steps),
        "padding": lambda: padding(mixed(datasets)),
        "padding_with_buckets": lambda: padding(bucketed(datasets)),
        "memory": lambda: memory(datasets, arguments.examples),
    }
    for name, measure in parts.items():
        result[name] = measure()
        print(name, result[name], file=sys.stderr)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
