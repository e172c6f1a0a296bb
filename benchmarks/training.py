"""What a training step costs: the models, a Transformer beside them, and how the cost grows.

Usage: python benchmarks/training.py [models] [peer] [growth] [--rounds 15] [--folder FOLDER]

`models`: steps of the 2017 model and of `MultiModel` (4 + 2 + 4 blocks) for 16 pairs of 64 ids, a
vocabulary of 8,192 and Adam with clipping, in units of one dense feed-forward (4,096 x 256 x 512,
forward and backward). `peer`: the same beside keras-hub's Transformer of 5 + 5 layers with as many
parameters. `growth`: the step by tasks, length, batch, width and experts, fitted as a power. The
sides take turns in one process, since a machine's speed changes by the minute; ratios are medians
of the ratios within a round. Writes `training.json` and `growth.png`.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import keras_multimodel as kmm

VOCABULARY = 8192
SIZES = [(128, 8, 2), (256, 16, 2), (128, 30, 4)]  # width, experts, experts of a token


def ids(batch=16, length=64, seed=0):
    return np.random.default_rng(seed).integers(2, VOCABULARY, (batch, length)).astype("int32")


def unit():
    """Returns the function whose time is 1: the products of a feed-forward and their gradients."""
    x, w, v = (tf.random.normal(shape) for shape in ((4096, 256), (256, 512), (512, 256)))

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            tape.watch([x, w, v])
            loss = tf.reduce_sum(tf.square(tf.nn.relu(x @ w) @ v))
        return tape.gradient(loss, [x, w, v])

    return lambda: [gradient.numpy() for gradient in both()]


def multimodel(width, num_experts, top_k, tasks=1, batch=16, length=64):
    """Returns `MultiModel` and a batch."""
    text = kmm.layers.TextModality(VOCABULARY, width)
    names = [f"task_{i}" for i in range(tasks)]
    model = kmm.MultiModel(
        [kmm.Task(name, text, text) for name in names],
        width,
        moe=kmm.layers.MoELayer(width, num_experts, top_k),
        num_encoder_blocks=4,
        num_mixer_blocks=2,
        num_decoder_blocks=4,
    )
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0))
    x = {name: {"inputs": ids(batch, length), "targets": ids(batch, length)} for name in names}
    return model, (x, {name: ids(batch, length) for name in names})


def model_2017(width, num_experts, top_k):
    """Returns the authors' model and a batch."""
    model = kmm.tensor2tensor.multimodel_2017(
        vocabulary_size=VOCABULARY, hidden_dim=width, num_experts=num_experts, top_k=top_k
    )
    loss = kmm.losses.LabelSmoothedCrossentropy(0.1, mask_id=0)
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0), loss)
    return model, ({"inputs": ids(), "targets": ids(), "target_space_id": np.zeros(16, "i")}, ids())


def transformer(width, parameters):
    """Returns keras-hub's Transformer of about so many parameters, and a batch."""
    tables = VOCABULARY * width + 2 * 64 * width
    inner = max(8, round((parameters - tables - 5 * 12 * width**2) / (10 * 2 * width)))
    table = keras_hub.layers.ReversibleEmbedding(VOCABULARY, width, mask_zero=True)
    source, target = (keras.Input((None,), dtype="int32", name=n) for n in ("inputs", "targets"))
    encoded, x = (
        table(part) + keras_hub.layers.PositionEmbedding(64)(table(part))
        for part in (source, target)
    )
    for _ in range(5):
        encoded = keras_hub.layers.TransformerEncoder(inner, 8)(encoded)
    for _ in range(5):
        x = keras_hub.layers.TransformerDecoder(inner, 8)(x, encoded)
    model = keras.Model({"inputs": source, "targets": target}, table(x, reverse=True))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0), loss)
    return model, ({"inputs": ids(), "targets": ids()}, ids())


def step(model, batch):
    """Returns a function that trains one step, and one that runs the model forward."""
    data = tf.data.Dataset.from_tensors(batch).repeat()
    model.fit(data, steps_per_epoch=2, verbose=0)
    iterator, function = iter(data), model.make_train_function()
    forward = tf.function(lambda x: model(x, training=False))

    def train():
        # A value of the logs, so that the step has ended.
        return float(tf.nest.flatten(function(iterator))[0])

    return train, lambda: [y.numpy() for y in tf.nest.flatten(forward(batch[0]))]


def measure(sides, rounds):
    """Returns name -> milliseconds of every round; the sides take turns."""
    times = {name: [] for name in sides}
    for index in range(rounds + 2):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if index >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}


def ratio(times, side, base):
    """Returns the median over rounds of the ratio of two sides."""
    return round(float(np.median(times[side] / times[base])), 2)


def models(rounds):
    """Yields a row for each model and size."""
    for size in SIZES:
        sides = {"unit": unit()}
        makers = {"multimodel_2017": model_2017, "MultiModel": multimodel}
        for name, maker in makers.items():
            sides[name], sides[f"{name}, forward"] = step(*maker(*size))
        times = measure(sides, rounds)
        for name in list(sides)[1:]:
            row = {"model": name, "width": size[0], "experts": f"{size[2]} of {size[1]}"}
            milliseconds = round(float(np.median(times[name])), 1)
            yield {**row, "ms": milliseconds, "units": ratio(times, name, "unit")}


def peer(rounds):
    """Yields a row for each of our models beside keras-hub's Transformer."""
    for size in SIZES[:2]:
        for name, maker in (("multimodel_2017", model_2017), ("MultiModel", multimodel)):
            model, batch = maker(*size)
            theirs, their_batch = transformer(size[0], model.count_params())
            sides = {name: step(model, batch)[0], "keras-hub": step(theirs, their_batch)[0]}
            times = measure(sides, rounds)
            yield {
                "model": name,
                "width": size[0],
                "parameters": model.count_params(),
                "parameters of the Transformer": theirs.count_params(),
                "step over the Transformer's": ratio(times, name, "keras-hub"),
            }


# What grows -> its values, and how the model is made. The smallest value comes first.
GROWTH = {
    "tasks": ((1, 2, 4, 8), lambda n: multimodel(128, 8, 2, tasks=n, batch=4)),
    "length": ((64, 128, 256, 512, 1024), lambda n: multimodel(128, 8, 2, batch=2, length=n)),
    "batch": ((8, 16, 32, 64), lambda n: multimodel(128, 8, 2, batch=n)),
    "width": ((64, 128, 256, 512), lambda n: multimodel(n, 8, 2, batch=4)),
    "experts": ((8, 30, 60, 120, 240), lambda n: multimodel(128, n, 2, batch=8)),
}
LAYERS = {  # whose cost must grow with the length, not with its square
    "ConvBlock": lambda: kmm.layers.ConvBlock(128),
    "MoELayer": lambda: kmm.layers.MoELayer(128, 8, 2),
    "AttentionBlock": lambda: kmm.layers.AttentionBlock(128),
}


def layer_step(layer, length):
    """Returns a function that runs a layer on a sequence, and its gradients."""
    x = tf.random.normal((4, length, 128))
    layer(x)

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(layer(x, training=True)))
        return tape.gradient(loss, [x, *(w.value for w in layer.trainable_weights)])

    return lambda: [np.asarray(g) for g in both()[:1]]


def growth(rounds):
    """Yields a row for everything that grows."""
    for name, (values, make) in GROWTH.items():
        times = measure({n: step(*make(n))[0] for n in values}, rounds)
        yield fitted(name, values, times)
    lengths = GROWTH["length"][0]
    for name, make in LAYERS.items():
        layer = make()
        times = measure({n: layer_step(layer, n) for n in lengths}, 3 * rounds)
        yield fitted(f"length, {name} alone", lengths, times)


def fitted(name, values, times):
    """Returns the medians by value, and the exponent of the line through their logarithms."""
    medians = [float(np.median(times[n])) for n in values]
    exponent = np.polyfit(np.log(values), np.log(medians), 1)[0]
    milliseconds = [round(median, 1) for median in medians]
    return {"grows": name, "values": values, "ms": milliseconds, "exponent": round(exponent, 2)}


def plot(rows, path):
    """Draws the time over what grows, relative to the smallest, on logarithmic axes."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    for axis, row in zip(figure.subplots(2, 4).flat, rows):
        axis.loglog(row["values"], row["ms"], marker="o", color="tab:blue")
        start, end = row["values"][0], row["values"][-1]
        axis.loglog([start, end], [row["ms"][0], row["ms"][0] * end / start], color="gray", ls=":")
        axis.set_title(f"{row['grows']}: exponent {row['exponent']}", fontsize=10)
        axis.set(xlabel=row["grows"].split(",")[0], ylabel="milliseconds")
        axis.set_xticks(row["values"], map(str, row["values"]))
        axis.minorticks_off()
    figure.suptitle("Time of a training step; dotted: in proportion")
    figure.savefig(path, dpi=120)


PARTS = {part.__name__: part for part in (models, peer, growth)}


def main(parts, rounds, folder):
    report = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name in parts:
        report[name] = []
        for row in PARTS[name](rounds):
            report[name].append(row)
            print(json.dumps(row), flush=True)
            (folder / "training.json").write_text(json.dumps(report, indent=1))
    if "growth" in report:
        plot(report["growth"], folder / "growth.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/training"))
    given = parser.parse_args()
    main(given.parts or list(PARTS), given.rounds, given.folder)
