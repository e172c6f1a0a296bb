"""Runs on disk: one small JSON a run, named by a hash of everything that the run depends on."""

import functools
import hashlib
import inspect
import json
import os
import pathlib
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import keras
import numpy as np

from keras_multimodel.argument_checks import made_folder
from keras_multimodel.data.mixing.mixture import Mixture

LIBRARIES = ("keras-multimodel", "keras", "numpy", "tensorflow", "jax", "torch")


def describe(value: Any) -> Any:
    """Returns what identifies a value in another process, as JSON.

    Arrays are known by their bytes, data sets by their form and first element, functions by their
    source, default values and the plain values of their closures. Of any other object only the
    class is seen.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): describe(value[key]) for key in value}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, functools.partial):
        return ["partial", describe(value.func), describe(value.args), describe(value.keywords)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _describe_object(value)


def _describe_object(value):
    if isinstance(value, Mixture):
        return type(value).__name__  # reading it would move it to the next epoch
    if hasattr(value, "element_spec"):
        first = next(iter(value.take(1).as_numpy_iterator()), None)
        return [type(value).__name__, repr(value.element_spec), describe(first)]
    if hasattr(value, "get_config"):
        return [type(value).__name__, describe(value.get_config())]
    if hasattr(value, "__array__"):
        array = np.ascontiguousarray(value)
        # An array of objects holds addresses instead of bytes.
        content = array.tolist() if array.dtype.kind == "O" else array.tobytes()
        return [str(array.dtype), list(np.shape(value)), digest(content)]
    if callable(value) and hasattr(value, "__qualname__"):
        return _describe_function(value)
    return type(value).__qualname__


def _describe_function(function):
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt, or built in
        code = getattr(function, "__code__", None)
        source = code.co_code.hex() if code else ""
    closure = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    plain = {k: v for k, v in closure.items() if not callable(v)}
    defaults = getattr(function, "__defaults__", None)
    return [function.__qualname__, digest(source), describe(defaults), describe(plain)]


def describe_model(model: keras.Model) -> str:
    """Returns a hash of a model's layers, weights' shapes, optimizer and losses."""
    try:
        config = keras.saving.serialize_keras_object(model)
    except (NotImplementedError, TypeError, ValueError):  # a subclass that cannot be saved
        config = describe(type(model).call)
    shapes = [list(weight.shape) for weight in model.weights]
    return digest([type(model).__qualname__, config, shapes])


def digest(value: Any) -> str:
    """Returns a hash of bytes, or of a value as JSON."""
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, default=describe).encode()
    return hashlib.sha256(value).hexdigest()[:16]


def cached(path: pathlib.Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the record in a file, or runs what makes it, and writes it in one step.

    Args:
        path: the file; its folder is created.
        run: makes the record.

    Returns:
        The record.

    Raises:
        ValueError: the folder is a file.
    """
    if path.exists():
        return json.loads(path.read_text())
    made_folder("folder", path.parent)
    part = path.with_suffix(".part")
    part.touch()  # a folder without right to write must not cost a run
    record = run()
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, path)
    return record


def surroundings() -> dict[str, Any]:
    """Returns the versions and the machine, for a record."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    machine = {"system": platform.platform(), "cores": os.cpu_count()}
    return {"versions": versions, "machine": machine, "backend": keras.backend.backend()}
