"""Two tasks that share every weight, and disagree: the smallest model whose gradients conflict."""

import keras
import numpy as np

from keras_multimodel import MultiModel, Task
from keras_multimodel.layers import CategoryModality, ConvBlock, TextModality
from tests.models.small_models import HIDDEN_DIM, ids, set_weights


def make_model(moe=None, **weights: float) -> MultiModel:
    """Returns the model with the tasks "a" and "b"; `weights` are of the tasks."""
    text = TextModality(11, HIDDEN_DIM, name="text")
    classes = CategoryModality(2, HIDDEN_DIM, name="classes")
    tasks = [
        Task(name, inputs=text, targets=classes, weight=weights.get(name, 1.0), metrics=[])
        for name in ("a", "b")
    ]
    blocks = {"conv_block": ConvBlock(HIDDEN_DIM, (3, 3), dropout=0.0), "attention_block": None}
    model = set_weights(MultiModel(tasks, HIDDEN_DIM, **blocks, moe=moe, num_encoder_blocks=1))
    # Small logits: with both classes about as probable, the gradients of the tasks are opposite.
    last = [weight for weight in model.trainable_weights if weight.shape[-1] == 2]
    for weight in last:
        weight.assign(weight * 0.05)
    return model


def make_batch(rows: int = 4, rows_of_b: int | None = None) -> tuple[dict, dict]:
    """Returns a batch `(x, y)`; both tasks read the same texts and give them other classes."""
    rows_of_b = rows if rows_of_b is None else rows_of_b
    text = ids(np.random.default_rng(0), [5, 3, 4, 2, 6, 1, 2, 7][:rows], 11)
    classes = (np.arange(rows) % 2).astype("int32")
    x = {"a": {"inputs": text}, "b": {"inputs": text[:rows_of_b]}}
    return x, {"a": classes, "b": 1 - classes[:rows_of_b]}


def train(
    model: MultiModel, task_weighting, steps=1, batch=None, learning_rate=0.1, run_eagerly=True
) -> dict:
    """Compiles the model with SGD, trains on one batch, and returns the logs of the last step."""
    optimizer = keras.optimizers.SGD(learning_rate)
    model.compile(optimizer, task_weighting=task_weighting, run_eagerly=run_eagerly)
    x, y = batch or make_batch()
    for _ in range(steps):
        model.reset_metrics()
        logs = model.train_on_batch(x, y, return_dict=True)
    return {name: float(value) for name, value in logs.items()}


def built(weighting, **weights: float):
    """Returns the method with its state, for tasks of these weights."""
    weighting.build(weights)
    return weighting


def numpy(x) -> np.ndarray:
    """Returns a tensor or variable as an array."""
    return keras.ops.convert_to_numpy(x)
