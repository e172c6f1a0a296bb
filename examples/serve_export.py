"""Serves tasks that `MultiModel.export_task` exported as SavedModels, over HTTP, with FastAPI.

Usage: python serve_export.py FOLDER [FOLDER ...] [--port 8501]

The calls are those of TensorFlow Serving's REST interface: `POST /v1/models/TASK:predict` with
`{"instances": [...]}`, where bytes of files are `{"b64": "..."}`. So a client need not know which
of the two answers. Needs TensorFlow, FastAPI and uvicorn, and tensorflow-text if a task reads or
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
    for package in about["packages"]:
        importlib.import_module(package)
    loaded = tf.saved_model.load(str(folder))

    def run(instances):
        found = loaded.signatures["serving_default"](inputs=tf.constant(instances))
        return [value.decode() for value in found["outputs"].numpy().tolist()]

    return about["task"], run


def plain(instance):
    """Returns the bytes that stand for a file in JSON, and all else as it is."""
    return base64.b64decode(instance["b64"]) if isinstance(instance, dict) else instance


def make_app(folders):
    """Returns the application that serves exported tasks."""
    tasks = dict(load(folder) for folder in folders)
    app = fastapi.FastAPI()

    # Not `async`: FastAPI then answers in a pool of threads, as TensorFlow blocks.
    @app.post("/v1/models/{task}:predict")
    def predict(task: str, body: dict):
        if task not in tasks:
            raise fastapi.HTTPException(404, f"the task must be one of {list(tasks)}")
        try:
            outputs = tasks[task]([plain(instance) for instance in body["instances"]])
        except (KeyError, ValueError, TypeError, tf.errors.OpError) as error:
            raise fastapi.HTTPException(400, str(error)[:500]) from error
        return {"predictions": outputs}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--port", type=int, default=8501)
    arguments = parser.parse_args()
    uvicorn.run(make_app(arguments.folders), host="127.0.0.1", port=arguments.port)
