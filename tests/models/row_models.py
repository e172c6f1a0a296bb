"""A small model of rows with three parts, and its batches."""

import numpy as np

from keras_multimodel import Task
from keras_multimodel.layers import (
    CategoryModality,
    ImageModality,
    MoELayer,
    NumberModality,
    TextModality,
)
from tests.models.small_models import HIDDEN_DIM, build, ids, set_weights

PARTS = ("photo", "title", "size")


def make_parts():
    return {
        "photo": ImageModality(HIDDEN_DIM, (8, 8, 1), num_blocks=1, name="photo_net"),
        "title": TextModality(11, HIDDEN_DIM, name="title_net"),
        "size": NumberModality(HIDDEN_DIM, 2, name="size_net"),
    }


def make_tasks():
    parts = make_parts()
    kinds = CategoryModality(3, HIDDEN_DIM, name="kind_net")
    return [
        Task("kind", parts, kinds, rows="product"),
        Task("price", parts, NumberModality(HIDDEN_DIM, name="price_net"), rows="product"),
        Task("caption", parts, parts["title"], rows="product", max_target_length=4),
    ]


def make_model(tasks=None, **arguments):
    moe = MoELayer(HIDDEN_DIM, num_experts=4, top_k=2, router="top_k")
    sizes = {"num_encoder_blocks": 1, "moe": moe, **arguments}
    return set_weights(build(make_tasks() if tasks is None else tasks, **sizes))


def make_batch(given, seed=0):
    """Returns a batch with one row for each row of `given`."""
    rng = np.random.default_rng(seed)
    given = np.array(given, bool)
    rows = len(given)
    captions = ids(rng, [4, 2, 3, 4][:rows], 11, 4)
    product = {
        "photo": rng.integers(0, 256, (rows, 8, 8, 1)).astype("uint8"),
        "title": ids(rng, [3, 5, 2, 4][:rows], 11, 5),
        "size": rng.normal(size=(rows, 2)).astype("float32"),
        "given": given,
    }
    y = {
        "kind": rng.integers(0, 3, rows).astype("int32"),
        "price": rng.normal(size=(rows, 1)).astype("float32"),
        "caption": captions,
    }
    return {"product": product, "caption": {"targets": captions}}, y
