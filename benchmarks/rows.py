"""Rows with several parts: what they learn together, what gaps cost, and what shared rows cost.

python benchmarks/rows.py xor     # parity of a digit in a picture, turned round by a word
python benchmarks/rows.py gaps    # accuracy with 0 to 90 % of the pictures missing
python benchmarks/rows.py speed   # two tasks on the same rows beside one of them
"""

import argparse
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

import keras_multimodel as kmm

WIDTH = 32
WORDS = ("same", "other")


def build(tasks, **arguments):
    """Returns a model that learns on two cores within minutes."""
    blocks = {
        "conv_block": kmm.layers.ConvBlock(WIDTH, (3, 3), dropout=0.0),
        "attention_block": kmm.layers.AttentionBlock(WIDTH, num_heads=4),
        "moe": None,
        "num_encoder_blocks": 1,
        "num_mixer_blocks": 0,
        "num_decoder_blocks": 1,
    }
    return kmm.MultiModel(tasks, WIDTH, **{**blocks, **arguments})


def xor_examples(split, rows, seed):
    """Returns rows of digits and words, and whether the digit is odd, turned round by the word."""
    digits = list(kmm.datasets.load("digits", split).take(rows).as_numpy_iterator())
    words = np.random.default_rng(seed).integers(0, 2, len(digits))
    answers = [int(d["targets"]) % 2 ^ int(w) for d, w in zip(digits, words)]
    return {
        "picture": [d["inputs"] for d in digits],
        "word": [WORDS[w] for w in words],
        "answer": [("even", "odd")[a] for a in answers],
    }


def xor(epochs):
    """Returns the accuracy with both parts and with either: which are kept -> share that is right.

    It prints how training goes.
    """
    columns = {"picture": "image", "word": "text", "answer": "category"}
    train = kmm.data.table(xor_examples("train", 4000, 0), columns)
    test = kmm.data.table(xor_examples("test", 500, 1), columns)
    encoders = train.preprocessors(image_size=(28, 28))
    picture = kmm.layers.ImageModality(
        WIDTH, (28, 28, 3), num_blocks=2, preprocessor=encoders["picture"]
    )
    word = kmm.layers.TextModality(
        encoders["word"].vocabulary_size, WIDTH, preprocessor=encoders["word"]
    )
    answer = kmm.layers.CategoryModality(2, WIDTH, preprocessor=encoders["answer"])
    task = kmm.Task("answer", {"picture": picture, "word": word}, answer)
    model = build([task])
    model.compile(keras.optimizers.Adam(2e-3, global_clipnorm=1.0))
    data = kmm.data.rows_to_tasks(train, task, cache=True)
    steps = kmm.data.mix(data, 64)
    held_out = kmm.data.batch(
        kmm.data.rows_to_tasks(test, task, cache=True)["answer"], "answer", 100
    )
    list(steps)  # what reading a first time costs is not training
    start = time.perf_counter()
    for _ in range(epochs):
        logs = model.fit(steps, verbose=0).history
        print(f"{time.perf_counter() - start:.0f} s: {logs['accuracy'][0]:.3f}", flush=True)
    found = {}
    for kept in ((True, True), (True, False), (False, True)):

        def keep(x, y, kept=kept):
            rows = x["answer"]
            return {"answer": {**rows, "given": rows["given"] & tf.constant(kept)}}, y

        found[kept] = model.evaluate(held_out.map(keep), verbose=0, return_dict=True)["accuracy"]
        print(f"picture, word = {kept}: {found[kept]:.3f} after {epochs} epochs")
    return found


def emoji_model(parts, found):
    """Returns a task that finds the category of an emoji from some parts, and its model."""
    nets = {
        "picture": kmm.layers.ImageModality(
            WIDTH, (32, 32, 3), num_blocks=2, preprocessor=found["picture"]
        ),
        "en": kmm.layers.TextModality(found["en"].vocabulary_size, WIDTH, preprocessor=found["en"]),
    }
    names = found["category"].names
    target = kmm.layers.CategoryModality(len(names), WIDTH, preprocessor=found["category"])
    task = kmm.Task("category", {part: nets[part] for part in parts}, target, read_from="decoder")
    return task, build([task])


def gaps(epochs, seeds, rate):
    """Prints a table of accuracies with some of the pictures missing, in percent."""
    columns = {"picture": "image", "en": "text", "category": "category"}
    train, test = (
        kmm.data.table(kmm.datasets.emoji_table(split), columns) for split in ("train", "test")
    )
    found = train.preprocessors()
    shares = (0.0, 0.3, 0.6, 0.9)
    results: dict = {}
    for seed in range(seeds):
        for kind, parts, dropped in (
            ("name alone", ("en",), 0.0),
            ("both", ("picture", "en"), 0.0),
            (f"both, DropInputs({rate})", ("picture", "en"), rate),
        ):
            keras.utils.set_random_seed(seed)
            task, model = emoji_model(parts, found)
            data = kmm.data.mix(kmm.data.rows_to_tasks(train, task, cache=True), 64, seed=seed)
            steps = epochs * sum(1 for _ in data)
            rate_of_steps = keras.optimizers.schedules.CosineDecay(2e-3, steps)
            model.compile(keras.optimizers.Adam(rate_of_steps, global_clipnorm=1.0))
            if dropped:
                transforms = {"category": kmm.data.DropInputs(dropped)}
                data = kmm.data.augment(data, transforms, seed=seed)
            model.fit(data, epochs=epochs, verbose=0)
            rows = kmm.data.rows_to_tasks(test, task)["category"]
            batches = list(kmm.data.batch(rows, "category", 100).as_numpy_iterator())
            for share in shares:
                found_accuracy = accuracy(model, batches, parts, share)
                results.setdefault(kind, {}).setdefault(share, []).append(found_accuracy)
                print(seed, kind, share, f"{found_accuracy:.1f}", flush=True)
    print("| model | " + " | ".join(f"{share:.0%} missing" for share in shares) + " |")
    print("|---" * (len(shares) + 1) + "|")
    for kind, by_share in results.items():
        cells = [
            f"{statistics.mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in by_share.values()
        ]
        print(f"| {kind} | " + " | ".join(cells) + " |")


def accuracy(model, batches, parts, share):
    """Returns the accuracy in percent with a share of the pictures left out, drawn five times."""
    draw, right, count = np.random.default_rng(0), 0, 0
    for x, y in batches * 5:
        given = x["category"]["given"].copy()
        if "picture" in parts:
            given[:, 0] &= draw.uniform(size=len(given)) >= share
        logits = model({"category": {**x["category"], "given": given}}, training=False)
        best = keras.ops.convert_to_numpy(logits["category"]).argmax(axis=-1)
        right, count = right + int((best == y["category"]).sum()), count + len(best)
    return 100.0 * right / count


def speed(runs):
    """Prints seconds of a step of one task, and of two tasks on the same rows, in turn."""
    columns = {"picture": "image", "en": "text", "category": "category", "subcategory": "category"}
    rows = kmm.data.table(kmm.datasets.emoji_table("test"), columns)
    found = rows.preprocessors()
    models = {}
    for names in (("category",), ("category", "subcategory")):
        task, _ = emoji_model(("picture", "en"), found)
        tasks = [
            kmm.Task(
                name,
                task.inputs,
                kmm.layers.CategoryModality(
                    len(found[name].names), WIDTH, preprocessor=found[name]
                ),
                rows="emoji",
            )
            for name in names
        ]
        model = build(tasks, num_encoder_blocks=2)
        model.compile("adam")
        data = kmm.data.rows_to_tasks(rows, tasks)["emoji"].take(64)
        ((x, y),) = kmm.data.batch(data, "emoji", 64)
        model.train_on_batch(x, y)
        models[len(names)] = model, x, y
    ratios = []
    for _ in range(runs):
        seconds = {}
        for count, (model, x, y) in models.items():
            start = time.perf_counter()
            for _ in range(10):
                model.train_on_batch(x, y)
            seconds[count] = (time.perf_counter() - start) / 10
        ratios.append(seconds[2] / seconds[1])
        print({count: f"{1000 * s:.0f} ms" for count, s in seconds.items()}, f"{ratios[-1]:.2f}")
    print(f"two tasks on the same rows take {statistics.median(ratios):.2f} times one (median)")


def main():
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("xor", "gaps", "speed"))
    parser.add_argument("--epochs", type=int, default=12, help="for xor and gaps")
    parser.add_argument("--seeds", type=int, default=3, help="for gaps")
    parser.add_argument("--rate", type=float, default=0.5, help="of DropInputs, for gaps")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    if arguments.what == "xor":
        xor(arguments.epochs)
    elif arguments.what == "gaps":
        gaps(arguments.epochs, arguments.seeds, arguments.rate)
    else:
        speed(5)


if __name__ == "__main__":
    main()
