"""What an expert layer costs, beside a dense feed-forward and the evaluation of all experts.

The dense feed-forward has tokens x top_k rows: the same multiplications. "All experts" is the way
of keras-hub's `MixtralSparseMoeBlock`, without the third product of its gated experts, so that all
sides have two. The sides take turns in one process: a machine's speed changes by the minute.

Usage: python benchmarks/moe.py [--rounds 15] [--experts 16 60 240] [--memory] [--folder FOLDER]
prints JSON: medians in milliseconds, and ratios of medians. With a folder it also writes
`moe.json`, a table, `moe.md`, and a plot, `moe.png`.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import keras_multimodel as kmm

TOKENS, WIDTH, HIDDEN = 1024, 256, 512
TOP_K = {16: 2, 60: 4, 240: 4}
PASSES = {"forward": "forward", "forward_backward": "forward + backward"}


def dense(rows):
    """Returns forward, and forward with the gradients to inputs and weights."""
    weights = tf.random.normal((WIDTH, HIDDEN)), tf.random.normal((HIDDEN, WIDTH))
    return passes(lambda x: tf.nn.relu(x @ weights[0]) @ weights[1], rows, weights)


def sparse(num_experts, top_k, tokens=TOKENS):
    """The whole layer: router, experts, combination, residual, normalisation, losses."""
    layer = kmm.layers.MoELayer(WIDTH, num_experts, top_k, HIDDEN)
    layer.build((tokens, WIDTH))
    layer.router.gate_kernel.assign(0.02 * np.random.normal(size=(WIDTH, num_experts)))
    weights = [weight.value for weight in layer.trainable_weights]
    forward = passes(lambda x: layer(x, training=False), tokens, weights)[0]
    return forward, passes(lambda x: layer(x, training=True), tokens, weights, layer)[1]


def all_experts(num_experts, top_k):
    """keras-hub's way: every expert on every token, then a weighted sum."""
    shape = num_experts, WIDTH, HIDDEN
    w_in, w_out = tf.random.normal(shape), tf.random.normal((num_experts, HIDDEN, WIDTH))
    gate = 0.02 * tf.random.normal((WIDTH, num_experts))

    def call(x):
        values, indices = tf.math.top_k(tf.nn.softmax(x @ gate), top_k)
        values /= tf.reduce_sum(values, -1, keepdims=True)
        weights = tf.reduce_sum(tf.one_hot(indices, num_experts) * values[..., None], 1)
        hidden = tf.nn.relu(tf.einsum("th,ehm->etm", x, w_in))
        outputs = tf.einsum("eti,eih->eth", hidden, w_out)
        return tf.reduce_sum(outputs * tf.transpose(weights)[..., None], 0)

    return passes(call, TOKENS, [w_in, w_out, gate])


def passes(call, rows, weights, layer=None):
    x = tf.random.normal((rows, WIDTH))

    @tf.function
    def forward():
        return call(x)

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            tape.watch([x, *weights])
            loss = tf.reduce_sum(tf.square(call(x)))
            if layer is not None:
                loss += sum(layer.losses)
        return tape.gradient(loss, [x, *weights])

    return forward, both


def milliseconds(step):
    """A call returns when its results are there; to read them would copy all gradients."""
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def compare(sides, rounds):
    """Returns the median of each side, all taken in turns."""
    times = {name: [] for name in sides}
    for turn in range(rounds + 2):
        for name, step in sides.items():
            elapsed = milliseconds(step)
            if turn >= 2:
                times[name].append(elapsed)
    return {name: round(float(np.median(values)), 2) for name, values in times.items()}


def measure(num_experts, rounds):
    top_k = TOP_K[num_experts]
    sides = {"feed_forward": dense(TOKENS * top_k), "moe": sparse(num_experts, top_k)}
    result = {"experts": num_experts, "top_k": top_k}
    for i, name in enumerate(PASSES):
        result[name] = compare({side: both[i] for side, both in sides.items()}, rounds)
        result[name]["moe_over_feed_forward"] = ratio(result[name], "moe", "feed_forward")
    if num_experts <= 60:
        sides = {"moe": sides["moe"], "all_experts": all_experts(num_experts, top_k)}
        for i, name in enumerate(PASSES):
            beside = compare({side: both[i] for side, both in sides.items()}, max(3, rounds // 4))
            result[name]["all_experts"] = beside["all_experts"]
            result[name]["all_experts_over_moe"] = ratio(beside, "all_experts", "moe")
    return result


def growth(rounds, top_k=4):
    """The forward pass of few and of many experts at the same top-k."""
    few, many = min(TOP_K), max(TOP_K)
    sides = {f"{e}_experts": sparse(e, top_k)[0] for e in (few, many)}
    times = compare(sides, rounds)
    return {"top_k": top_k, **times, "ratio": ratio(times, f"{many}_experts", f"{few}_experts")}


def ratio(times, one, other):
    return round(times[one] / times[other], 2)


def peak_megabytes(side):
    """Peak memory of a step with 16,384 tokens, over that of the process before it."""
    step = dense(16384 * 4)[1] if side == "feed_forward" else sparse(60, 4, 16384)[1]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        milliseconds(step)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory():
    """Each side in a process of its own; weights and gradients are 2 x 60 experts x 2 kernels."""
    result = {"tokens": 16384, "experts": 60, "top_k": 4}
    for side in ("feed_forward", "moe"):
        command = [sys.executable, __file__, "--peak", side]
        result[side] = round(float(subprocess.run(command, capture_output=True).stdout))
    result["weights_and_gradients"] = round(2 * 60 * 2 * WIDTH * HIDDEN * 4 / 2**20)
    result["limit"] = 2 * result["feed_forward"] + result["weights_and_gradients"]
    return result


def table(report):
    """Returns the results as a table in Markdown."""
    heads = ("experts", "top-k", "pass", "FFN, ms", "MoE, ms", "MoE / FFN", "all experts / MoE")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for result in report["results"]:
        for name, title in PASSES.items():
            row = result[name]
            cells = [result["experts"], result["top_k"], title, row["feed_forward"], row["moe"]]
            cells += [row["moe_over_feed_forward"], row.get("all_experts_over_moe", "not run")]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def plot(report):
    """Plots both passes over the number of experts, in multiples of the feed-forward's time."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, 2, sharey=True), PASSES.items()):
        for side, label in (("moe", "MoELayer"), ("all_experts", "all experts on every token")):
            rows = [result for result in report["results"] if side in result[name]]
            ratios = [ratio(row[name], side, "feed_forward") for row in rows]
            axis.plot([row["experts"] for row in rows], ratios, marker="o", label=label)
        axis.axhline(1.0, color="gray", ls=":", label="dense feed-forward")
        axis.set(title=title, xlabel="experts", xscale="log", yscale="log")
        axis.set_xticks(list(TOP_K), [f"{e}\ntop-{k}" for e, k in TOP_K.items()], minor=False)
        axis.minorticks_off()
        axis.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    figure.axes[0].set_ylabel("time over feed-forward")
    figure.axes[0].legend()
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--experts", type=int, nargs="+", default=list(TOP_K), choices=TOP_K)
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    parser.add_argument("--folder", type=pathlib.Path, help="also write JSON, table and plot here")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_megabytes(arguments.peak))
        return
    report = {"tokens": TOKENS, "width": WIDTH, "hidden": HIDDEN, "unit": "ms, medians"}
    if arguments.memory:  # First: a process starts with the peak of the one that started it.
        report["peak_memory_mb"] = memory()
    report["results"] = [measure(e, arguments.rounds) for e in arguments.experts]
    report["forward_growth"] = growth(arguments.rounds)
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        (arguments.folder / "moe.json").write_text(text + "\n")
        (arguments.folder / "moe.md").write_text(table(report))
        plot(report).savefig(arguments.folder / "moe.png", dpi=120)


if __name__ == "__main__":
    main()
