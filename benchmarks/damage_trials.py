"""States of `Resume`, `.keras` files and presets that are damaged: none may load as another model.

Usage: python benchmarks/damage_trials.py [--states 6000] [--files 200] [--seed 0]

Trains for an epoch (`joint` of `small_training.py`), and writes all three. Then one byte at a
random place is changed, or the file is cut there (a tenth as often), and the file is loaded. Prints
how often the damage was refused, by the class of the error; how often it had no effect, such as in
a field of the archive that nothing reads; and how often something else was loaded, which must be
never. For presets, each of the files with a checksum is damaged in turn. Ends with code 1 if
something else was loaded, or an error of another kind than `ValueError` came from this library.
"""

import argparse
import collections
import json
import os
import pathlib
import sys
import tempfile
import warnings

import keras
import numpy as np
import small_training

import keras_multimodel as kmm
from keras_multimodel.callbacks.files import first_whole

MESSAGES = {
    "state": "`directory` must hold a whole state",
    ".keras": "",  # Keras opens the archive and reads the config before this library sees it
    "preset": "`preset` must be a whole folder",
}


def make_files(folder: pathlib.Path) -> None:
    """Writes a state, a `.keras` file and a preset."""
    model = small_training.make_model("joint")
    position = kmm.data.Position()
    data, callbacks = small_training.mixture("joint", model, position)
    resume = kmm.callbacks.Resume(folder / "run", position)
    model.fit(data, callbacks=[*callbacks, resume], verbose=0)
    model.save(folder / "model.keras")
    model.save_to_preset(folder / "preset")


def loaded_state(path):
    """Returns all that a state has, as what `==` compares."""
    _, metadata, arrays = first_whole([path])
    return json.dumps(metadata), {n: (a.shape, a.dtype, a.tobytes()) for n, a in arrays.items()}


def content(model):
    """Returns the config, weights and optimizer of a model, as what `==` compares."""
    optimizer = getattr(model, "optimizer", None)  # a preset is not compiled
    variables = [*model.weights, *(optimizer.variables if optimizer else [])]
    arrays = [keras.ops.convert_to_numpy(variable).tobytes() for variable in variables]
    return json.dumps(model.get_config(), sort_keys=True, default=str), arrays


def loaded_keras(path):
    """Returns what a `.keras` file has."""
    return content(keras.saving.load_model(path))


def loaded_preset(path):
    """Returns what the preset has that a file belongs to."""
    return content(kmm.MultiModel.from_preset(path.parent))


def damages(whole: bytes, count: int, random: np.random.Generator):
    """Yields copies of a file with one byte changed, and a tenth as many that are cut."""
    for _ in range(count):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= random.integers(1, 256)
        yield "changed", damaged
    for _ in range(count // 10):
        yield "cut", whole[: random.integers(len(whole))]


def trial(kind, path, load, count, random) -> bool:
    """Damages a file, loads it each time, and prints what came of it; returns whether it is good.

    Args:
        kind: a key of `MESSAGES`.
        path: the file; as it was at the end.
        load: function of the path that returns what is in it.
        count: number of changed bytes.
        random: random numbers.
    """
    whole, expected = path.read_bytes(), load(path)
    found, other = collections.Counter(), collections.Counter()
    for damage, damaged in damages(whole, count, random):
        path.write_bytes(damaged)
        try:
            same = load(path) == expected
            found[f"{damage}: {'no effect' if same else 'ANOTHER MODEL'}"] += 1
            other["another model"] += not same
        except Exception as error:
            found[f"{damage}: {type(error).__name__}"] += 1
            is_ours = isinstance(error, ValueError) and MESSAGES[kind] in str(error)
            other["another error"] += not is_ours and kind != ".keras"
    path.write_bytes(whole)
    print(f"{kind} {path.name}, {len(whole)} bytes: {dict(sorted(found.items()))}", flush=True)
    return not any(other.values())


def main() -> None:
    """Reads the arguments and runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=6000)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    random = np.random.default_rng(arguments.seed)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = pathlib.Path(name)
        make_files(folder)
        state = folder / "run" / "state.npz"
        good = trial("state", state, loaded_state, arguments.states, random)
        good &= trial(".keras", folder / "model.keras", loaded_keras, arguments.files, random)
        for part in ("weights.npz", "config.json", "checksums.json"):
            file = folder / "preset" / part
            good &= trial("preset", file, loaded_preset, arguments.files // 3 + 1, random)
    sys.exit(not good)


if __name__ == "__main__":
    main()
