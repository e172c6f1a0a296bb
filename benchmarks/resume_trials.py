"""Trainings that are killed ten times and resumed, beside the same trainings uncut.

Usage: python benchmarks/resume_trials.py [kinds] [--kills 10] [--seed 0] [--epochs 12]

`KERAS_BACKEND=jax` in front runs it on JAX, which has the kinds `joint` and `mixed` of
`small_training.py`. A training is a process. SIGKILL ends it at a random moment after its first
step, and it is started again; three times the kill falls inside the write of a state: after a
random part of its bytes, and before one of the links and renames with which it takes its place.
Prints each kill, and at the end whether all is equal to the bit: the logs of every step, the logs
of every epoch, the weights at the end, and the last state, which has the optimizer, the metrics,
the seeds and what callbacks know. Replicas may differ by 1e-6. Ends with code 1 if it is not.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import keras
import numpy as np
import small_training

import keras_multimodel as kmm

INSIDE = ("open", "os.link", "os.rename")  # audit events of Python in the write of a state


class Log(keras.callbacks.Callback):
    """Appends the logs of each step and epoch to a file, where they outlive the process."""

    def __init__(self, file: pathlib.Path, resume: kmm.callbacks.Resume):
        super().__init__()
        self.file, self.resume, self.epoch = file, resume, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._write(f"epoch {self.epoch + 1} step {self.resume.first_step + batch + 1}", logs)

    def on_epoch_end(self, epoch, logs=None):
        self._write(f"epoch {epoch + 1}", logs)

    def _write(self, where, logs):
        line = json.dumps([where, {key: float(value) for key, value in logs.items()}])
        with open(self.file, "a") as file:
            file.write(f"{line}\n")


def train(arguments: argparse.Namespace) -> None:
    """Trains, saving every third step; keeps the logs, and the weights at the end."""
    folder = arguments.child
    model = small_training.make_model(arguments.kinds[0])
    position = kmm.data.Position()
    data, callbacks = small_training.mixture(arguments.kinds[0], model, position)
    resume = kmm.callbacks.Resume(folder / "run", position, save_freq=3)
    callbacks = [*callbacks, Log(folder / "log.jsonl", resume), resume]
    if arguments.inside:
        die_inside_a_write(*arguments.inside)
    model.fit(data, epochs=arguments.epochs, callbacks=callbacks, verbose=0)
    weights = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    np.savez(folder / "final.npz", *weights)


def die_inside_a_write(event: str, count: str) -> None:
    """Has this process kill itself in its `count`-th audit event of a kind about a state."""
    left = int(count)

    def hook(name, values):
        nonlocal left
        is_new = str(values[0]).endswith(".tmp") if values else False
        if name == event and (is_new or (event != "open" and str(values[0]).endswith(".npz"))):
            left -= 1
            if left == 0 and event == "open":  # a file that is still to be filled
                delay = np.random.default_rng().uniform(0.0, 0.004)
                threading.Timer(delay, os.kill, [os.getpid(), signal.SIGKILL]).start()
            elif left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def start(arguments, kind, folder, inside=()):
    """Starts a training in a process of its own."""
    command = [sys.executable, __file__, kind, "--child", folder, "--epochs", arguments.epochs]
    command += ["--inside", *inside] if inside else []
    with open(folder / "output.txt", "a") as output:
        return subprocess.Popen([*map(str, command)], stdout=output, stderr=subprocess.STDOUT)


def lines(folder):
    """Returns the log of a training, one entry a line."""
    file = folder / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def size(folder):
    """Returns the size of the log."""
    file = folder / "log.jsonl"
    return file.stat().st_size if file.exists() else 0


def kill(arguments, kind, folder, moment, seconds, random):
    """Starts a training, has it killed, and prints where."""
    before = size(folder)
    count = str(random.integers(1, 5))
    process = start(arguments, kind, folder, (moment, count) if moment else ())
    if moment is None:
        while process.poll() is None and size(folder) == before:
            time.sleep(0.002)
        time.sleep(random.uniform(0.0, seconds))
        process.kill()
    if process.wait() != -signal.SIGKILL:
        sys.exit(f"{kind}: a training ended by itself, see {folder / 'output.txt'}")
    left = [file.stat().st_size for file in (folder / "run").glob("*.tmp")]
    what = f"{moment} number {count} of a write" if moment else "a random moment"
    part = f", {left[0]} bytes of a new state left" if left else ""
    log = lines(folder)
    print(f"  killed at {what}, after {log[-1][0] if log else 'no step'}{part}", flush=True)
    return bool(left)


def trial(arguments, kind, folder):
    """Runs a kind of training uncut and cut; returns whether they are the same."""
    random = np.random.default_rng(arguments.seed)
    uncut, cut = folder / "uncut", folder / "cut"
    for each in (uncut, cut):
        each.mkdir()
    process = start(arguments, kind, uncut)
    times = []
    while process.poll() is None:
        times += [time.monotonic()] * (not times and size(uncut) > 0)
        time.sleep(0.01)
    if process.returncode:
        sys.exit(f"{kind}: the uncut training failed, see {uncut / 'output.txt'}")
    seconds = (time.monotonic() - times[0]) / arguments.kills
    moments = [*INSIDE, *[None] * (arguments.kills - len(INSIDE))]
    random.shuffle(moments)
    print(f"{kind} on {keras.backend.backend()}, seed {arguments.seed}:")
    inside = sum(kill(arguments, kind, cut, moment, seconds, random) for moment in moments)
    if start(arguments, kind, cut).wait():
        sys.exit(f"{kind}: the last training failed, see {cut / 'output.txt'}")
    same = compare(uncut, cut, 1e-6 if kind == "replicas" else 0.0)
    print(f"  {len(moments)} kills, {inside} inside a write: {'SAME' if same else 'DIFFERENT'}")
    return same


def compare(uncut, cut, tolerance):
    """Prints what differs between two trainings; returns whether it is within a tolerance."""
    expected = dict(lines(uncut))
    found = lines(cut)  # with the steps after the last save before each kill, trained again
    same = expected.keys() == dict(found).keys()
    differences = [
        abs(value - expected.get(where, {}).get(key, np.inf))
        for where, logs in found
        for key, value in logs.items()
        if not (np.isnan(value) and np.isnan(expected[where][key]))
    ]
    arrays = [all_arrays(folder) for folder in (uncut, cut)]
    same &= arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        difference = distance(array, arrays[1][name])
        differences.append(difference)
        if difference > tolerance:
            print(f"  {name} differs by {difference}")
    epochs = sum("step" not in where for where in expected)
    rates = sorted({logs["learning_rate"] for logs in expected.values() if "learning_rate" in logs})
    print(
        f"  {len(expected) - epochs} steps of {epochs} epochs, {len(found)} lines of log, "
        f"{len(arrays[0])} arrays, learning rates {rates or 'constant'}: "
        f"largest difference {max(differences)}"
    )
    return bool(same and max(differences) <= tolerance)


def all_arrays(folder):
    """Returns by name the weights at the end of a training, and what its last state has."""
    names = ("final.npz", "run/state.npz")
    arrays = {f"{n} {k}": v for n in names for k, v in np.load(folder / n).items()}
    metadata, *rest = json.loads(arrays["run/state.npz metadata"].tobytes())
    del metadata["examples"]  # a checksum of as many as could be read in half a second
    text = json.dumps([metadata, *rest]).encode()
    return {**arrays, "run/state.npz metadata": np.frombuffer(text, "uint8")}


def distance(one, other):
    """Returns the largest difference of two arrays, 0 only if they are equal to the bit."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return np.inf
    if one.tobytes() == other.tobytes():
        return 0.0
    if one.dtype.kind != "f":
        return np.inf
    return max(float(np.abs(one - other).max()), np.finfo("float64").tiny)


def main() -> None:
    """Reads the arguments; trains as a child, or runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=", ".join(small_training.KINDS))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--child", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return train(arguments)
    is_jax = keras.backend.backend() == "jax"
    same = True
    for kind in arguments.kinds or small_training.KINDS[: 2 if is_jax else 3]:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="resume_trials_"))
        same &= trial(arguments, kind, folder)
    sys.exit(not same)


if __name__ == "__main__":
    main()
