"""What exported tasks promise: the outputs of the model that they come from.

Usage: python benchmarks/export_checks.py [--preset eight_tasks_tiny] [--inputs 100] [--tasks ...]
[--formats ...]. Each export runs in a process of its own that cannot import keras_multimodel
(examples/run_export.py). Prints one line of JSON a task and format:

- `logits`: the worst difference of a logit, over classes or over all positions that were written;
- `identical`: of `inputs`, those for which the export returns or writes what `generate` does;
- `raw_identical`: the same from raw inputs, for a SavedModel;
- `seconds` for the export, and `megabytes` of its files.

Inputs are held out; images are given as PNG files, and speech as WAV files of 16 bits.
"""

import argparse
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import soundfile
import tensorflow as tf
from generation_checks import RATE, held_out

import keras_multimodel as kmm
from keras_multimodel.data.preprocessing.audio_files import read_waveform

SCRIPT = pathlib.Path(__file__).parents[1] / "examples" / "run_export.py"
FORMATS = ("saved_model", "litert", "onnx")


def as_file(name, example):
    """Returns a raw example in the form that exported models read."""
    if name in ("digits", "emoji"):
        return tf.io.encode_png(example).numpy()
    if name != "speech":
        return example
    buffer = io.BytesIO()
    soundfile.write(buffer, read_waveform(example, RATE), RATE, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def batch_of(net, examples):
    """Returns raw examples as one array, padded with zeros."""
    arrays = [np.asarray(net.preprocessor(example)) for example in examples]
    shape = np.max([array.shape for array in arrays], axis=0)
    padded = [np.pad(a, [(0, n - m) for n, m in zip(shape, a.shape)]) for a in arrays]
    return np.stack(padded)


def run(folder, inputs, raw):
    """Returns the outputs of an export for inputs, computed by another process."""
    with tempfile.TemporaryDirectory() as place:
        files = [f"{place}/{name}.npz" for name in ("inputs", "outputs")]
        np.savez(files[0], inputs=inputs)
        command = [sys.executable, "-I", str(SCRIPT), str(folder), *files, *["--raw"] * raw]
        subprocess.run(command, check=True)
        with np.load(files[1], allow_pickle=raw) as outputs:
            return dict(outputs)


def logit_difference(model, task, inputs, found):
    """Returns the worst difference to the logits of the model, for the ids that were written."""
    x = {"inputs": inputs}
    real = np.ones(len(inputs), bool)
    if task.autoregressive:
        x["targets"] = found["ids"]
        real = found["ids"] != 0
    alone = model.task_model(task.name)
    wanted = np.asarray(alone({task.name: x}, training=False)[task.name])
    steps = found["logits"].shape[1] if task.autoregressive else None
    difference = np.abs(found["logits"] - wanted[:, :steps] if steps else found["logits"] - wanted)
    return float(difference[real[:, :steps] if steps else real].max())


def check(model, name, form, examples, wanted, folder):
    """Returns the line of one task and format."""
    task = model.tasks[name]
    inputs = batch_of(task.inputs, examples)
    given = {}
    if form == "litert" and task.max_input_length is None and inputs.ndim < 4:
        given = {"input_length": inputs.shape[1]}
    start = time.perf_counter()
    model.export_task(name, folder, form, **given)
    line = {"task": name, "format": form, "seconds": round(time.perf_counter() - start, 1)}
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    line["megabytes"] = round(size / 1e6, 1)
    found = run(folder, inputs, raw=False)
    line["logits"] = logit_difference(model, task, inputs, found)
    predictions = found.get("ids", found["logits"].argmax(-1))
    decode = task.targets.preprocessor.decode
    outputs = [decode(row, raw) for row, raw in zip(predictions, examples)]
    line |= {"inputs": len(examples), "identical": count_equal(outputs, wanted[None])}
    if form == "saved_model":
        raw = np.empty(len(examples), object)
        raw[:] = examples
        outputs = [text.decode() for text in run(folder, raw, raw=True)["outputs"].tolist()]
        line["raw_identical"] = count_equal(outputs, wanted["default"])
    return line


def count_equal(a, b):
    """Returns how many outputs are equal."""
    return sum(x == y for x, y in zip(a, b, strict=True))


def main(arguments):
    """Prints the lines."""
    keras.utils.set_random_seed(0)
    model = kmm.MultiModel.from_preset(arguments.preset)
    for name in arguments.tasks or model.tasks:
        examples = [as_file(name, example) for example in held_out(name, arguments.inputs)]
        # Arrays do not tell how many words a sentence has, which the constraint of trees needs.
        wanted = {c: model.generate(name, examples, constraint=c) for c in ("default", None)}
        for form in arguments.formats:
            with tempfile.TemporaryDirectory() as folder:
                line = check(model, name, form, examples, wanted, pathlib.Path(folder))
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="eight_tasks_tiny")
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--tasks", nargs="*")
    parser.add_argument("--formats", nargs="*", default=FORMATS, choices=FORMATS)
    main(parser.parse_args())
