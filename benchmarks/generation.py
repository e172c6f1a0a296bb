"""Speed of generation: with and without caches, by length and by batch.

Usage: python benchmarks/generation.py [--quick] [--folder FOLDER]. Prints JSON and writes
`generation.png`. All cases take turns, round by round; times are medians in milliseconds. `ratio`
is the median over rounds of a case's time over the time that a dense feed-forward takes forward and
backward in the same round (4096 tokens, width 256, hidden 512), so that machines can be compared;
`cost_of_512_over_64` is that of the two times of a round, with the smallest and the largest.
"""

import argparse
import json
import pathlib
import time
from typing import NamedTuple

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import keras_multimodel as kmm

WIDTH, VOCABULARY = 128, 8192


class Case(NamedTuple):
    """What is measured: `batch` inputs of 64 ids and outputs of `length`."""

    batch: int
    length: int
    use_cache: bool = True


def milliseconds(function, runs):
    """Returns the time of each of some calls."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def feed_forward(tokens=4096, width=256, hidden=512):
    """Returns a function that runs a dense feed-forward, forward and backward."""
    x = tf.random.normal((tokens, width))
    kernels = tf.random.normal((width, hidden)), tf.random.normal((hidden, width))

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            tape.watch([x, *kernels])
            y = tf.matmul(tf.nn.relu(tf.matmul(x, kernels[0])), kernels[1])
            loss = tf.reduce_sum(tf.square(y))
        return tape.gradient(loss, [x, *kernels])

    return lambda: [gradient.numpy() for gradient in both()]


def build():
    """Returns a model of width 128, 4 layers, 8 experts and 8,192 ids."""
    keras.utils.set_random_seed(0)
    text = kmm.layers.TextModality(VOCABULARY, WIDTH)
    model = kmm.MultiModel(
        [kmm.Task("text", text, text)],
        WIDTH,
        moe=kmm.layers.MoELayer(WIDTH, num_experts=8),
        num_encoder_blocks=4,
        num_decoder_blocks=4,
    )
    return model


class NeverEnd(kmm.generation.Constraint):
    """Allows all ids but the end, so that every output has the length asked for."""

    def initial_state(self, inputs):
        return ()

    def allowed(self, state, remaining):
        return keras.ops.arange(VOCABULARY)[None] != 1

    def advance(self, state, ids):
        return state


NEVER_END = NeverEnd()


def writer(model, case):
    """Returns a function that generates the outputs of a case."""
    random = np.random.default_rng(0)
    inputs = list(random.integers(2, VOCABULARY, (case.batch, 64)).astype("int32"))
    arguments = {"max_length": case.length, "use_cache": case.use_cache, "constraint": NEVER_END}

    def generate():
        outputs = model.generate("text", inputs, **arguments)
        if any(outputs.ended):
            raise RuntimeError("an output ended early")

    return generate


def measure(model, cases, rounds):
    """Returns rows of the report, and by case the times of all rounds, `(rounds,)`."""
    functions = {case: writer(model, case) for case in cases}
    unit = feed_forward()
    unit()
    progress = tqdm(total=len(cases) * (rounds + 1), desc="cases, then rounds of them")
    first = {}
    for case, function in functions.items():
        (first[case],) = milliseconds(function, 1)
        progress.update()
    units, times = [], {case: [] for case in cases}
    for _ in range(rounds):
        units.append(np.median(milliseconds(unit, 15)))
        for case, function in functions.items():
            times[case].append(np.median(milliseconds(function, 3 if case.use_cache else 1)))
            progress.update()
    progress.close()
    times = {case: np.array(values) for case, values in times.items()}
    rows = [
        {
            **case._asdict(),
            "ms": round(np.median(values), 1),
            "calibrate_ms": round(np.median(units), 1),
            "ratio": round(np.median(values / units), 2),
            "tokens_per_second": round(1e3 * case.batch * case.length / np.median(values)),
            "first_call_s": round(1e-3 * first[case], 1),
        }
        for case, values in times.items()
    ]
    return rows, times


def plot(rows, path):
    """Plots the time of an id by length and the ids a second by batch."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for use_cache, label in ((True, "cached"), (False, "recomputed")):
        chosen = [r for r in rows if r["use_cache"] == use_cache and r["batch"] == 16]
        chosen.sort(key=lambda row: row["length"])
        lengths = [row["length"] for row in chosen]
        axes[0].plot(lengths, [r["ms"] / r["length"] for r in chosen], marker="o", label=label)
    axes[0].set(xlabel="ids written (batch 16)", ylabel="ms per step", yscale="log")
    ticks = [2, 5, 10, 20, 50, 100]
    axes[0].set_yticks(ticks, [str(tick) for tick in ticks])
    axes[0].minorticks_off()
    axes[0].legend()
    by_batch = sorted((r for r in rows if r["length"] == 64 and r["use_cache"]), key=_batch)
    axes[1].plot([r["batch"] for r in by_batch], [r["tokens_per_second"] for r in by_batch], "o-")
    axes[1].set(xlabel="batch (64 ids, cached)", ylabel="ids per second", xscale="log")
    axes[1].set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    axes[1].minorticks_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _batch(row):
    return row["batch"]


def main(quick, folder):
    folder.mkdir(parents=True, exist_ok=True)
    short, long, recomputed = Case(16, 64), Case(16, 512), Case(16, 64, use_cache=False)
    cases = [short, long, recomputed]
    if not quick:
        cases += [Case(16, n) for n in (16, 128, 256)] + [Case(16, 16, use_cache=False)]
        cases += [Case(n, 64) for n in (1, 4, 64)]
    rows, times = measure(build(), cases, rounds=3 if quick else 9)
    costs = times[long] / times[short]
    report = {
        "rows": rows,
        "ratio_of_64": rows[0]["ratio"],
        "cost_of_512_over_64": round(np.median(costs), 2),
        "cost_of_512_over_64_range": [round(costs.min(), 2), round(costs.max(), 2)],
        "recomputed_over_cached": round(np.median(times[recomputed] / times[short]), 1),
    }
    plot(rows, folder / "generation.png")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=pathlib.Path, default="runs/benchmarks")
    arguments = parser.parse_args()
    main(arguments.quick, arguments.folder)
