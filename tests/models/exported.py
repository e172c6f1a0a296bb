"""Raw examples of exported tasks, and a process that runs exports without the library."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

from tests.generation import writers

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
CHILD = """
import pathlib, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import run_export
for folder in map(pathlib.Path, sys.argv[2:]):
    for kind in ("raw", "arrays"):
        file = folder.with_suffix(f".{kind}.npz")
        if file.exists():
            given = {k: v.tolist() for k, v in np.load(file, allow_pickle=True).items()}
            found = run_export.run(folder, given, kind == "raw")
            np.savez(folder.with_suffix(f".{kind}.out.npz"), **found)
"""


RAW = {
    "text": writers.INPUTS["text"],
    "parse": writers.INPUTS["parse"],
    "digits": [tf.io.encode_png(image).numpy() for image in writers.IMAGES],
}


def arrays_of(task):
    """Returns the raw inputs of a task as one array, padded with zeros."""
    arrays = [np.asarray(task.inputs.preprocessor(raw)) for raw in RAW[task.name]]
    shape = np.max([x.shape for x in arrays], axis=0)
    return np.stack([np.pad(x, [(0, n - m) for n, m in zip(shape, x.shape)]) for x in arrays])


# Rows of which some parts are missing, and what a batch has in their place.
FILE = RAW["digits"][0]
ROWS = {
    "bäume": [{"größe": 5.0, "words": "the file opens"}, {"words": "save"}],
    "price": [{"picture": FILE, "class": "one", "size": 1.0}, {"size": 4.0}],
}
BATCHES = {
    "bäume": {
        "größe": [5.0, float("nan")],
        "words": ["the file opens", "save"],
        "given": [[True, True], [False, True]],
    },
    "price": {
        "picture": [FILE, b""],
        "class": ["one", ""],
        "size": [1.0, 4.0],
        "given": [[True, True, True], [False, False, True]],
    },
}


def save(file, **inputs):
    arrays = {}
    for key, raw in inputs.items():
        arrays[key] = np.empty(len(raw), object)
        arrays[key][:] = list(raw)
    np.savez(file, **arrays)


def run_all(folders):
    command = [sys.executable, "-I", "-c", CHILD, str(EXAMPLES), *map(str, folders)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
