"""Models small enough to build in a test, and batches for them."""

import keras
import numpy as np

from keras_multimodel import MultiModel, Task
from keras_multimodel.layers import (
    AttentionBlock,
    AudioModality,
    CategoryModality,
    ConvBlock,
    ImageModality,
    LabelsModality,
    MoELayer,
    NumberModality,
    SeriesModality,
    TextModality,
)

HIDDEN_DIM = 16


def make_tasks(*names: str) -> list[Task]:
    """Returns tasks of every kind, of all names or of some: four stacks and shared nets."""
    text = TextModality(11, HIDDEN_DIM, name="text")
    other = TextModality(7, HIDDEN_DIM, tie_weights=False, name="other")
    image = ImageModality(HIDDEN_DIM, (8, 8, 1), num_blocks=1, name="image")
    audio = AudioModality(HIDDEN_DIM, num_blocks=2, channels=(8, HIDDEN_DIM), name="audio")
    tasks = [
        Task("copy", inputs=text, targets=text, max_target_length=5),
        Task("shorten", inputs=text, targets=other, max_target_length=5),
        Task("digits", inputs=image, targets=CategoryModality(3, HIDDEN_DIM, name="digit")),
        Task("topic", inputs=text, targets=CategoryModality(5, HIDDEN_DIM, name="topics")),
        Task("speech", inputs=audio, targets=text, weight=0.5, max_target_length=5),
    ]
    return [task for task in tasks if task.name in (names or [task.name])]


def blocks() -> dict:
    """Returns small templates without dropout."""
    return {
        "conv_block": ConvBlock(HIDDEN_DIM, (3, 3), dropout=0.0),
        "attention_block": AttentionBlock(HIDDEN_DIM, num_heads=2),
        "moe": MoELayer(HIDDEN_DIM, num_experts=4, top_k=2),
    }


def build(tasks=None, **arguments) -> MultiModel:
    """Returns a small model; `arguments` replace its own."""
    sizes = {"num_encoder_blocks": 2, "num_mixer_blocks": 1, "num_decoder_blocks": 1}
    tasks = make_tasks() if tasks is None else tasks
    return MultiModel(tasks, HIDDEN_DIM, **{**blocks(), **sizes, **arguments})


def set_weights(layer: keras.layers.Layer, seed: int = 0) -> keras.layers.Layer:
    """Gives a built layer or model weights that are the same on every backend, and no zeros."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        size = 1.0 if len(weight.shape) < 2 else weight.shape[-2] ** -0.5
        value = rng.normal(size=weight.shape) * size
        if weight.name == "scale":
            value = 1.0 + 0.1 * value
        weight.assign(value.astype("float32"))
    return layer


def ids(rng, lengths, size: int, length: int | None = None) -> np.ndarray:
    """Returns rows of ids from 2 on, each closed by the end, 1, and padded."""
    result = np.zeros((len(lengths), length or max(lengths)), "int32")
    for row, n in zip(result, lengths):
        row[:n] = rng.integers(2, size, n)
        row[n - 1] = 1
    return result


def make_batch(tasks, lengths=(6, 3, 5), seed: int = 0) -> tuple[dict, dict]:
    """Returns a batch `(x, y)` with one row of every task for each of `lengths`."""
    rng = np.random.default_rng(seed)
    x, y = {}, {}
    for task in tasks:
        x[task.name] = {"inputs": _example(task.inputs, rng, lengths)}
        if task.autoregressive:
            shifted = [max(1, (n + 1) % 7) for n in lengths]  # not as long as the inputs
            y[task.name] = ids(rng, shifted, task.targets.vocabulary_size)
            x[task.name]["targets"] = y[task.name]
        else:
            y[task.name] = _target(task.targets, rng, len(lengths))
    return x, y


def _target(net, rng, rows):
    if isinstance(net, CategoryModality):
        return rng.integers(0, net.num_classes, rows).astype("int32")
    y = _example(net, rng, [1] * rows)
    y[-1] = np.nan  # a gap
    return y


def _example(net, rng, lengths):
    if isinstance(net, TextModality):
        return ids(rng, lengths, net.vocabulary_size)
    if isinstance(net, ImageModality):
        return rng.integers(0, 256, (len(lengths), *net.image_shape)).astype("uint8")
    if isinstance(net, NumberModality):
        return rng.normal(size=(len(lengths), net.size)).astype("float32")
    if isinstance(net, LabelsModality):
        return rng.integers(0, 2, (len(lengths), net.num_labels)).astype("float32")
    if isinstance(net, SeriesModality):
        series = rng.normal(size=(len(lengths), max(lengths), net.channels))
        known = np.arange(max(lengths)) < np.array(lengths)[:, None]
        known = np.repeat(known[..., None], net.channels, axis=2)
        return np.concatenate([series * known, known], axis=2).astype("float32")
    if not isinstance(net, AudioModality) or net.num_bins:
        raise ValueError(f"`net` must be one that has examples here. Received: {net}")
    audio = np.zeros((len(lengths), 4 * max(lengths)), "float32")
    for row, n in zip(audio, lengths):
        row[: 4 * n] = rng.normal(size=4 * n)
    return audio


def numpy_outputs(outputs: dict) -> dict[str, np.ndarray]:
    """Returns what a model returned as float32 arrays."""
    return {
        name: keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))
        for name, value in outputs.items()
    }


def max_difference(a: dict, b: dict) -> float:
    """Returns the largest difference between two dicts of arrays."""
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)
