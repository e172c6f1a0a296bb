"""Serves tasks that `MultiModel.export_task` exported as SavedModels, over HTTP, with FastAPI.

Usage: python serve_export.py FOLDER [FOLDER ...] [--port 8501]

The calls are those of TensorFlow Serving's REST interface: `POST /v1/models/TASK:predict` with
`{"instances": [...]}`, where bytes of files are `{"b64": "..."}` and rows with parts are objects,
`{"title": "...", "price": 9.5, "given": [true, true]}`. So a client need not know which of the two
answers. Needs TensorFlow, FastAPI and uvicorn, and tensorflow-text if a task reads or
writes text; keras_multimodel is not imported.
"""

import argparse
import base64
import importlib
import json
import pathlib

import fastapi
import tensorflow as tf
import uvicorn


def load(folder):
    """Returns the name of an exported task, and its function of a batch of raw inputs."""
    about = json.loads((pathlib.Path(folder) / "export.json").read_text())
    if about["format"] != "saved_model":
        raise ValueError(f"FOLDER must hold a SavedModel. Received: {folder}, {about['format']}")
    for package in about["packages"]:
        importlib.import_module(package)
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]
    specs = signature.structured_input_signature[1]
    names = about.get("inputs", {key: key for key in specs})

    def is_row(instance):
        return len(names) > 1 or (isinstance(instance, dict) and instance.keys() == names.keys())

    def run(instances):
        batch = {}
        for key, name in names.items():
            column = [plain(row[key] if is_row(row) else row) for row in instances]
            batch[name] = tf.constant(column, specs[name].dtype)
        found = signature(**batch)
        # An export with raw=False has no raw outputs.
        key = next(key for key in ("outputs", "ids", "prediction") if key in found)
        return [readable(value) for value in found[key].numpy().tolist()]

    run.model = loaded  # whose weights live as long as it does
    return about["task"], run


def plain(value):
    """Returns the bytes that stand for a file in JSON, and all else as it is."""
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def readable(value):
    """Returns the text of bytes, and all else as it is."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def make_app(folders):
    """Returns the application that serves exported tasks."""
    tasks = dict(load(folder) for folder in folders)
    app = fastapi.FastAPI()

    # Not `async`: FastAPI then answers in a pool of threads, as TensorFlow blocks.
    @app.post("/v1/models/{task}:predict")
    def predict(task: str, body: dict):
        if task not in tasks:
            raise fastapi.HTTPException(404, f"the task must be one of {list(tasks)}")
        if not isinstance(body.get("instances"), list):
            raise fastapi.HTTPException(400, "the body must have a list under `instances`")
        try:
            outputs = tasks[task](body["instances"])
        except (KeyError, ValueError, TypeError, tf.errors.OpError) as error:
            raise fastapi.HTTPException(400, f"{type(error).__name__}: {error}"[:500]) from error
        return {"predictions": outputs}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--port", type=int, default=8501)
    arguments = parser.parse_args()
    uvicorn.run(make_app(arguments.folders), host="127.0.0.1", port=arguments.port)
