"""What a training step of the eight-task demo costs on each backend, and how often it is traced.

Usage: python benchmarks/backends.py [LINE ...] [--steps 30] [--folder FOLDER]. A line has a
backend, with `+jit` for TensorFlow with XLA, the `lengths` of the mixture, and the tasks, by
default all of the demo's: `tensorflow:dynamic`, `jax:3`, `tensorflow+jit:1:emoji,parse,en_de`.
Without lines, the six of `LINES`.

Each line is two epochs of `fit` with validation, in a process of its own, one after the other. All
have the same initial weights, examples and optimizer. The first step includes tracing and
compiling. Writes `backends.json`, and prints a line of it as each process ends.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
THREE = "emoji,parse,en_de"
LINES = [
    "tensorflow:dynamic",
    "jax:3",
    "tensorflow:3",
    "torch:3",
    f"tensorflow:1:{THREE}",
    f"tensorflow+jit:1:{THREE}",
]


def make_mixtures(example, tasks, lengths):
    """Returns training and validation data, of a sixteenth of the pairs."""
    import keras_multimodel as kmm

    mixtures = []
    for split, options in (("train", {"seed": 1}), ("validation", {"shuffle": False, "steps": 4})):
        data = {}
        for task in tasks:
            raw = example.examples(task.name, split)
            raw = raw.shard(8, 0) if task.name in example.TRANSLATION else raw
            data[task.name] = kmm.data.encode(raw, task, cache=True)
        shares = {name: example.SHARES[name] for name in data}
        mixtures.append(kmm.data.mix(data, shares=shares, lengths=lengths, **options))
    return mixtures


def count_calls(model, method):
    """Has a model note each call of a method, which Keras makes to trace it; returns the notes."""
    calls, plain = [], getattr(model, method)

    def counted(*arguments):
        calls.append(method)
        return plain(*arguments)

    setattr(model, method, counted)
    return calls


def work(line, steps):
    """Measures one line in this process; returns its row."""
    import keras
    import numpy as np

    import keras_multimodel as kmm

    sys.path.insert(0, str(ROOT / "examples"))
    import eight_tasks as example

    class Clock(keras.callbacks.Callback):
        """Seconds and loss of every step, and what was traced when an epoch ended."""

        def __init__(self, calls):
            super().__init__()
            self.calls, self.seconds, self.losses, self.traced = calls, [], [], []

        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.seconds.append(time.perf_counter() - self.start)
            self.losses.append(float(logs["loss"]))

        def on_epoch_end(self, epoch, logs=None):
            self.traced.append([len(calls) for calls in self.calls])

    backend, lengths, *names = line.split(":")
    keras.utils.set_random_seed(0)
    tasks = example.make_tasks()
    if names:
        tasks = [task for task in tasks if task.name in names[0].split(",")]
        model = kmm.MultiModel.from_variant("tiny", tasks)
    else:
        model = example.make_model(tasks)
    lengths = lengths if lengths == "dynamic" else int(lengths)
    train, held_out = make_mixtures(example, tasks, lengths)
    jit = {"jit_compile": "+jit" in backend} if backend.startswith("tensorflow") else {}
    optimizer = keras.optimizers.Adam(1e-3, beta_2=0.98, global_clipnorm=2.0)
    model.compile(optimizer, **jit)
    clock = Clock([count_calls(model, method) for method in ("train_step", "test_step")])
    model.fit(
        train.repeat(),
        epochs=2,
        steps_per_epoch=steps,
        validation_data=held_out,
        verbose=0,
        callbacks=[clock],
    )
    first, *later = clock.seconds
    return {
        "line": line,
        "first_step_s": round(first, 1),
        "step_ms": round(1e3 * float(np.median(later))),
        "slowest_later_steps_s": [round(seconds, 2) for seconds in sorted(later)[-3:]],
        "announced": [train.num_shapes, held_out.num_shapes],
        # The same in both epochs: the second traced nothing. PyTorch traces nothing.
        "traced_after_each_epoch": [] if backend == "torch" else clock.traced,
        "mean_loss_of_epochs": [round(clock.losses[i * steps - 1], 4) for i in (1, 2)],
    }


def run(line, steps):
    """Measures a line in a process; returns its row."""
    backend = line.split(":")[0].removesuffix("+jit")
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, __file__, "--work", line, "--steps", str(steps)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    rows = [text for text in done.stdout.splitlines() if text.startswith("{")]
    return json.loads(rows[-1]) if rows else {"line": line, "error": done.returncode}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", nargs="*", metavar="LINE")
    parser.add_argument("--steps", type=int, default=30, help="of an epoch")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/backends"))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work(given.work, given.steps)), flush=True)
    else:
        given.folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for line in given.lines or LINES:
            rows.append(run(line, given.steps))
            print(json.dumps(rows[-1]), flush=True)
            (given.folder / "backends.json").write_text(json.dumps(rows, indent=1))
