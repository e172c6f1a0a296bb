"""Helpers of the tests of the authors' model: their files, and their weights in our layers."""

import functools
import pathlib

import numpy as np
from keras import ops

from keras_multimodel.tensor2tensor import multimodel_2017
from keras_multimodel.tensor2tensor.weights import assign_entries, model_entries

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def load(name):
    """Returns a file as a dict."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def variables(file, prefix="var/"):
    """Returns the variables of a file by their original names."""
    return {k.removeprefix(prefix): v for k, v in file.items() if k.startswith(prefix)}


def assign(file, entries, prefix="var/"):
    """Gives a layer the weights of a file, which may hold those of others too."""
    assign_entries(list(entries), variables(file, prefix), ignored=lambda name: True)


def relative_error(value, reference):
    """Returns the largest difference over the largest reference value."""
    value = np.asarray(ops.convert_to_numpy(value))
    assert value.shape == np.shape(reference)
    return np.max(np.abs(value - reference)) / np.max(np.abs(reference))


def use_noise(moe, noise):
    """Has an expert layer's router use the given noise."""
    moe.router.call = functools.partial(moe.router.call, noise=noise)


def random_variables(model, seed=0):
    """Returns values of all original variables of a model, small enough for moderate outputs."""
    rng = np.random.default_rng(seed)
    result = {}
    for entry in model_entries(model):
        for name, shape in entry.shapes.items():
            is_vector = len(shape) == 1
            scale = 0.2 if is_vector else np.prod(shape[:-1]) ** -0.5
            mean = 1.0 if name.endswith("scale") else 0.0
            result[name] = rng.normal(mean, scale, shape).astype("float32")
    return result


def full_model(file):
    """Returns the model of `x_full_a_symbol_sep0` with its weights, and its features."""
    model = multimodel_2017(
        vocabulary_size=50, hidden_dim=36, num_layers=2, num_experts=4, dropout=0.0
    )
    features = {
        "inputs": file["in/inputs"][..., 0, 0].astype("int32"),
        "targets": file["in/targets"][..., 0, 0].astype("int32"),
        "target_space_id": np.full(3, file["in/target_space_id"], "int32"),
    }
    return model, features
