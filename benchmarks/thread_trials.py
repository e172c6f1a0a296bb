"""Trainings beside which another thread generates: they must end with the same weights.

Usage: python benchmarks/thread_trials.py [--fits 10]

Runs the `joint` training of `small_training.py` once alone. Then each of `--fits` fits the same
training while a thread calls `generate`, `score`, `predict` and `task_model` all the time, from
before the first step, whose tracing is the moment that could go wrong. Prints for each how many
calls there were, and whether losses, weights and optimizer are equal to the bit; ends with code 1
if not. Not for JAX, where `fit` refuses all of these beside it.
"""

import argparse
import sys
import threading

import keras
import numpy as np
import small_training

import keras_multimodel as kmm


def calls(model: kmm.MultiModel, texts: list[str], random: np.random.Generator) -> None:
    """Uses a model in each way that is allowed while it trains, with inputs of a random length."""
    text = texts[random.integers(len(texts))]
    way = random.integers(4)
    if way == 0:
        model.generate("copy", [text], max_length=int(random.integers(1, 9)))
    elif way == 1:
        model.score("copy", [text], [text])
    elif way == 2:
        model.generate("digits", [np.zeros((28, 28, 3), "uint8")])
    else:
        model.task_model("copy")


def train(seed: int | None = None) -> tuple[list[bytes], int]:
    """Trains for two epochs.

    Args:
        seed: of what another thread does; None for no other thread.

    Returns:
        The losses and all variables as bytes, and how many calls the thread made.
    """
    model = small_training.make_model("joint")
    data, _ = small_training.mixture("joint", model)
    texts, random, done = small_training.sentences(), np.random.default_rng(seed), threading.Event()
    count, errors = 0, []

    def run():
        nonlocal count
        try:
            while not done.is_set():
                calls(model, texts, random)
                count += 1
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    if seed is not None:
        thread.start()
    try:
        history = model.fit(data, epochs=2, verbose=0).history
    finally:
        done.set()
    if seed is not None:
        thread.join()
    if errors:
        raise errors[0]
    variables = [*model.variables, *model.optimizer.variables]
    arrays = [np.array(history["loss"]), *map(keras.ops.convert_to_numpy, variables)]
    return [array.tobytes() for array in arrays], count


def main() -> None:
    """Reads the arguments and runs the trainings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=10)
    fits = parser.parse_args().fits
    alone, _ = train()
    same = 0
    for seed in range(fits):
        found, count = train(seed)
        is_same = found == alone
        print(f"fit {seed + 1}, {count} calls beside it: {'SAME' if is_same else 'DIFFERENT'}")
        sys.stdout.flush()
        same += is_same
    print(f"{same} of {fits} fits have the losses and {len(alone) - 1} arrays of the one alone")
    sys.exit(same < fits)


if __name__ == "__main__":
    main()
