"""Runs a task that `MultiModel.export_task` exported, without keras_multimodel and Keras.

Usage: python run_export.py FOLDER INPUTS.npz OUTPUTS.npz [--raw]

`INPUTS.npz` has an array for each input of the task, such as `inputs`: preprocessed arrays, or with
`--raw` texts and the bytes of files, which a SavedModel takes. `OUTPUTS.npz` gets what the task
returns: `logits` and `prediction` of classes and numbers, `ids` of sequences, `outputs` of raw
inputs. What this script imports is NumPy and the runtime of the format. Copy from it what you need:
the loop of `write`, above all, is what a LiteRT or ONNX model does not have inside.
"""

import argparse
import importlib
import json
import pathlib
import sys

import numpy as np

# Whatever needs the library fails from here on.
sys.modules["keras_multimodel"] = None


def saved_model(folder, packages):
    """Returns the functions of a SavedModel by their names."""
    import tensorflow as tf

    for package in packages:  # tensorflow-text, which registers its operations, and imports Keras
        importlib.import_module(package)
    if not packages:
        sys.modules["keras"] = None
    loaded = tf.saved_model.load(str(folder))

    def function(name):
        specs = loaded.signatures[name].structured_input_signature[1]

        def run(**arrays):
            tensors = {k: tf.constant(v, specs[k].dtype) for k, v in arrays.items()}
            found = loaded.signatures[name](**tensors)
            return {key: value.numpy() for key, value in found.items()}

        run.model = loaded  # whose weights live as long as it does
        return run

    return {name: function(name) for name in loaded.signatures}


def litert(folder, file, signatures, input_length):
    """Returns the functions of a LiteRT model, which take one row, by their names."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        from tensorflow.lite import Interpreter
    interpreter = Interpreter(str(folder / file))

    def function(name):
        runner = interpreter.get_signature_runner(name)
        details = runner.get_input_details()

        def run(**arrays):
            return runner(**{k: padded(v, **details[k]) for k, v in arrays.items()})

        return run

    return {name: function(name) for name in signatures}


def padded(array, shape, dtype, **_):
    """Returns an array with zeros behind it, up to a shape."""
    array = np.asarray(array, dtype)
    behind = [(0, want - size) for want, size in zip(shape, array.shape)]
    return np.pad(array, behind) if behind else array


def onnx(folder, files):
    """Returns the functions of ONNX models by their names."""
    import onnxruntime

    def function(file):
        session = onnxruntime.InferenceSession(str(folder / file))
        known = {given.name for given in session.get_inputs()}
        names = [output.name for output in session.get_outputs()]

        def run(**arrays):
            given = {k: np.asarray(v) for k, v in arrays.items() if k in known}
            return dict(zip(names, session.run(names, given)))

        return run

    return {name: function(file) for name, file in files.items()}


def write(functions, arrays, max_length, padding_id, end_id):
    """Writes ids by greedy search with `prefill` and `step`.

    Args:
        functions: the functions of the model.
        arrays: its inputs, `(rows, ...)`.
        max_length: the most ids to write.
        padding_id: what rows have behind their end.
        end_id: the last id of a row.

    Returns:
        ids `(rows, max_length)`, and the logits of each step `(rows, steps, vocabulary_size)`.
    """
    cache = functions["prefill"](**arrays)
    rows = len(next(iter(arrays.values())))
    ids, logits = np.full((rows, max_length), padding_id, "int32"), []
    last, ended = np.zeros(rows, "int32"), np.zeros(rows, bool)
    for index in range(max_length):
        found = functions["step"](last=last, index=np.array(index, "int32"), **cache)
        # What is not among the outputs has not changed.
        cache |= {k.removeprefix("next_"): v for k, v in found.items() if k.startswith("next_")}
        last = np.where(ended, padding_id, found["id"]).astype("int32")
        ids[:, index], ended = last, ended | (last == end_id)
        logits.append(found["logits"])
        if ended.all():
            break
    return ids, np.stack(logits, axis=1)


def run(folder, arrays, raw=False):
    """Returns the outputs of an exported task for a batch.

    Args:
        folder: what `export_task` wrote.
        arrays: its inputs by their names, `(rows, ...)`.
        raw: whether these are raw.
    """
    folder = pathlib.Path(folder)
    about = json.loads((folder / "export.json").read_text())
    names = about.get("inputs", {})
    arrays = {names.get(key, key): value for key, value in arrays.items()}
    if about["format"] == "saved_model":
        functions = saved_model(folder, about["packages"])
        found = functions["serving_default" if raw else "arrays"](**arrays)
        if "logits" in functions and not raw:  # of the ids that were written
            found |= functions["logits"](**arrays, targets=found["ids"])
        return found
    if about["format"] == "litert":
        keys = ("file", "signatures", "input_length")
        functions = litert(folder, *(about[key] for key in keys))
        count = len(next(iter(arrays.values())))
        batches = [{k: v[i : i + 1] for k, v in arrays.items()} for i in range(count)]
    else:
        functions, batches = onnx(folder, about["files"]), [arrays]
    if "serve" in functions:
        found = [functions["serve"](**batch) for batch in batches]
        return {key: np.concatenate([part[key] for part in found]) for key in found[0]}
    limits = [about[key] for key in ("max_length", "padding_id", "end_id")]
    found = [write(functions, batch, *limits) for batch in batches]
    steps = max(logits.shape[1] for _, logits in found)
    logits = [np.pad(x, [(0, 0), (0, steps - x.shape[1]), (0, 0)]) for _, x in found]
    return {"ids": np.concatenate([ids for ids, _ in found]), "logits": np.concatenate(logits)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("inputs", type=pathlib.Path)
    parser.add_argument("outputs", type=pathlib.Path)
    parser.add_argument("--raw", action="store_true")
    arguments = parser.parse_args()
    # Raw examples are Python objects: read such a file only if you wrote it.
    with np.load(arguments.inputs, allow_pickle=arguments.raw) as file:
        given = {key: file[key] for key in file.files}
    if arguments.raw:
        given = {key: value.tolist() for key, value in given.items()}
    np.savez(arguments.outputs, **run(arguments.folder, given, arguments.raw))
