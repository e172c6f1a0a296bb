"""Speed of generation: with and without caches, by length and by batch.

Usage: python benchmarks/generation.py [--quick] [--folder FOLDER]. Prints JSON and writes
`generation.png`. Times are medians in milliseconds; `ratio` divides them by the time that a dense
feed-forward takes forward and backward in the same minute (4096 tokens, width 256, hidden 512), so
that machines can be compared.
"""

import argparse
import json
import pathlib
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import keras_multimodel as kmm

WIDTH, VOCABULARY = 128, 8192


def median_ms(step, runs):
    """Returns the median time of `step`, after two calls that do not count."""
    times = []
    for _ in range(runs + 2):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[2:]))


def calibrate(tokens=4096, width=256, hidden=512, runs=15):
    """Returns the milliseconds of a dense feed-forward, forward and backward."""
    x = tf.random.normal((tokens, width))
    kernels = tf.random.normal((width, hidden)), tf.random.normal((hidden, width))

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            tape.watch([x, *kernels])
            y = tf.matmul(tf.nn.relu(tf.matmul(x, kernels[0])), kernels[1])
            loss = tf.reduce_sum(tf.square(y))
        return tape.gradient(loss, [x, *kernels])

    return median_ms(lambda: [gradient.numpy() for gradient in both()], runs)


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


class NeverEnd(kmm.decoding.Constraint):
    """Allows all ids but the end, so that every output has the length asked for."""

    def initial_state(self, inputs):
        return ()

    def allowed(self, state, remaining):
        return keras.ops.arange(VOCABULARY)[None] != 1

    def advance(self, state, ids):
        return state


NEVER_END = NeverEnd()


def measure(model, batch, length, use_cache=True, runs=3):
    """Returns the time of `batch` inputs of 64 ids and outputs of `length`, over calibration."""
    inputs = list(np.random.default_rng(0).integers(2, VOCABULARY, (batch, 64)).astype("int32"))

    def generate():
        arguments = {"max_length": length, "use_cache": use_cache, "constraint": NEVER_END}
        outputs = model.generate("text", inputs, **arguments)
        if any(outputs.ended):
            raise RuntimeError("an output ended early")

    start = time.perf_counter()
    generate()
    first = time.perf_counter() - start
    before = calibrate()
    milliseconds = median_ms(generate, runs)
    unit = (before + calibrate()) / 2
    return {
        "batch": batch,
        "length": length,
        "use_cache": use_cache,
        "ms": round(milliseconds, 1),
        "calibrate_ms": round(unit, 1),
        "ratio": round(milliseconds / unit, 2),
        "tokens_per_second": round(1e3 * batch * length / milliseconds),
        "first_call_s": round(first, 1),
    }


def plot(rows, path):
    """Plots the time of an id by length and the ids a second by batch."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for use_cache, label in ((True, "cached"), (False, "recomputed")):
        chosen = [r for r in rows if r["use_cache"] == use_cache and r["batch"] == 16]
        chosen.sort(key=lambda row: row["length"])
        lengths = [row["length"] for row in chosen]
        axes[0].plot(lengths, [r["ms"] / r["length"] for r in chosen], marker="o", label=label)
    axes[0].set(xlabel="ids written (batch 16)", ylabel="ms per step", yscale="log")
    axes[0].legend()
    by_batch = sorted((r for r in rows if r["length"] == 64 and r["use_cache"]), key=_batch)
    axes[1].plot([r["batch"] for r in by_batch], [r["tokens_per_second"] for r in by_batch], "o-")
    axes[1].set(xlabel="batch (64 ids, cached)", ylabel="ids per second", xscale="log")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _batch(row):
    return row["batch"]


def main(quick, folder):
    folder.mkdir(parents=True, exist_ok=True)
    model = build()
    cases = [(16, 64, True), (16, 512, True), (16, 64, False)]
    if not quick:
        cases += [(16, n, True) for n in (16, 128, 256)] + [(16, 16, False)]
        cases += [(n, 64, True) for n in (1, 4, 64)]
    rows = [measure(model, *case) for case in cases]
    short, long, recomputed = rows[:3]
    report = {
        "rows": rows,
        "ratio_of_64": short["ratio"],
        "cost_of_512_over_64": round(long["ratio"] / short["ratio"], 2),
        "recomputed_over_cached": round(recomputed["ratio"] / short["ratio"], 1),
    }
    plot(rows, folder / "generation.png")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=pathlib.Path, default="runs/benchmarks")
    arguments = parser.parse_args()
    main(arguments.quick, arguments.folder)
