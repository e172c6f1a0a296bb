"""Two workers on this machine: beside one process, and when one of them is killed.

Usage: python benchmarks/worker_trials.py [--schedule] [--seed 0]

`KERAS_BACKEND=jax` in front runs it on JAX. Runs `examples/several_machines.py --float64`, as from
a shell:

1. in one process, and with two workers: losses of every epoch, and scores, must agree to 1e-5;
2. with `--directory`, and one of the two killed with SIGKILL at a random moment after the first
   save, once the chief and once the other: the command must end within a minute with an error and
   a message. Started again, it must end with the losses and scores of the run that was not cut.

`--schedule` trains a task a step with a token budget, instead of both tasks. Prints what was
measured, and ends with code 1 if something is not as it must be.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "several_machines.py"
TOLERANCE = 1e-5


def start(folder: pathlib.Path, *options: str) -> subprocess.Popen:
    """Starts the example; its output goes to a file."""
    command = [sys.executable, str(EXAMPLE), "--float64", *options]
    with open(folder / "output.txt", "w") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def result(folder: pathlib.Path, *options: str) -> dict:
    """Runs the example to its end; returns what it measured, epochs and scores."""
    losses = folder / "losses.json"
    if start(folder, "--losses", str(losses), *options).wait():
        sys.exit((folder / "output.txt").read_text()[-3000:])
    return json.loads(losses.read_text())


def difference(one: dict, other: dict) -> float:
    """Returns the largest relative difference; of a resumed run, the epochs that it has."""
    found = [np.abs(np.divide(other["scores"][k], v) - 1) for k, v in one["scores"].items() if v]
    for key, values in one["history"].items():
        there = np.array(other["history"][key])
        here = np.array(values)[-len(there) :]
        both_nan = np.isnan(here) & np.isnan(there)  # such as a task that an epoch did not train
        relative = np.abs(there - here) / np.maximum(np.abs(here), 1e-9)
        found += list(np.where(both_nan, 0.0, relative))
    return float(np.max(found))


def killed(folder: pathlib.Path, number: int, seconds: float, options: list[str]) -> float:
    """Kills a worker a while after the first save; prints how the command ended.

    Args:
        folder: where output and states are.
        number: of the worker.
        seconds: how long after the first save.
        options: of the example.

    Returns:
        How long the other worker went on, in seconds.
    """
    process = start(folder, "--directory", str(folder / "run"), *options)
    output = folder / "output.txt"
    while process.poll() is None and not (folder / "run" / "state.npz").exists():
        time.sleep(0.01)
    time.sleep(seconds)
    (line,) = [line for line in output.read_text().splitlines() if line.startswith("processes:")]
    os.kill(int(line.split()[1 + number]), signal.SIGKILL)
    before = time.monotonic()
    code = process.wait()
    waited = time.monotonic() - before
    messages = [line for line in output.read_text().splitlines() if "Error" in line]
    print(f"  worker {number} killed {seconds:.2f} s after the first save: the command ended after")
    print(f"  {waited:.1f} s with code {code}: {messages[-1][:300] if messages else 'NO MESSAGE'}")
    return waited if code and messages else np.inf


def main() -> None:
    """Reads the arguments and runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedule", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    options = ["--schedule"] if arguments.schedule else []
    mode = "schedule and token budget" if arguments.schedule else "joint steps"
    print(f"{mode} on {keras.backend.backend()}, seed {arguments.seed}:", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folders = [pathlib.Path(name, part) for part in ("one", "two", "0", "1")]
        for folder in folders:
            folder.mkdir()
        one = result(folders[0], "--workers", "1", *options)
        two = result(folders[1], *options)
        differences = [difference(one, two)]
        print(f"  two workers differ from one process by {differences[0]:.1e}", flush=True)
        waited = []
        for number in (1, 0):
            folder = folders[2 + number]
            waited.append(killed(folder, number, random.uniform(0.0, 2.0), options))
            resumed = result(folder, "--directory", str(folder / "run"), *options)
            differences.append(difference(two, resumed))
            epochs = len(resumed["history"]["loss"])
            print(f"  resumed: {epochs} epochs, differ from the uncut run by {differences[-1]:.1e}")
            sys.stdout.flush()
    sys.exit(max(differences) > TOLERANCE or max(waited) > 60.0)


if __name__ == "__main__":
    main()
