"""Small real trainings of digits and sentences, for the trials in this folder.

| kind | what it has |
|---|---|
| `joint` | steps of both tasks, dropout, noisy experts, `EarlyStopping` and `ReduceLROnPlateau` |
| `mixed` | a task a step (`Adaptive`), token budget, bfloat16, `Uncertainty`, `augment` |
| `replicas` | as `joint`, on two devices of a `MirroredStrategy`, without early stopping |
"""

import contextlib
from collections.abc import Sequence

import keras
import tensorflow as tf

import keras_multimodel as kmm

KINDS = ("joint", "mixed", "replicas")
WIDTH = 16


def make_model(kind: str) -> kmm.MultiModel:
    """Returns a compiled model of two tasks, with everything in it that draws random numbers."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16" if kind == "mixed" else "float32")
    strategy = _two_devices() if kind == "replicas" else None
    with strategy.scope() if strategy else contextlib.nullcontext():
        pixels = kmm.data.ImagePreprocessor((28, 28))
        image = kmm.layers.ImageModality(WIDTH, (28, 28, 3), num_blocks=1, preprocessor=pixels)
        labels = kmm.data.CategoryPreprocessor(range(10))
        digit = kmm.layers.CategoryModality(10, WIDTH, preprocessor=labels)
        letters = kmm.data.train_text_preprocessor(sentences(), 80, "char", byte_fallback=False)
        text = kmm.layers.TextModality(letters.vocabulary_size, WIDTH, preprocessor=letters)
        model = kmm.MultiModel(
            [kmm.Task("digits", image, digit), kmm.Task("copy", text, text, max_target_length=40)],
            WIDTH,
            kmm.layers.ConvBlock(WIDTH, (3, 3), dilation_rates=(1, 1), dropout=0.3),
            kmm.layers.AttentionBlock(WIDTH, num_heads=2, dropout=0.1),
            kmm.layers.MoELayer(WIDTH, num_experts=4, top_k=2),
            num_encoder_blocks=1,
            num_mixer_blocks=0,
            num_decoder_blocks=1,
        )
        weighting = kmm.weighting.Uncertainty() if kind == "mixed" else None
        optimizer = keras.optimizers.Adam(3e-3, global_clipnorm=1.0)
        model.compile(optimizer, task_weighting=weighting)
    return model


def _two_devices():
    cpu = tf.config.list_physical_devices("CPU")[0]
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, halves)
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)


def sentences() -> list[str]:
    """Returns 150 short English sentences."""
    texts = (d["inputs"].numpy().decode() for d in kmm.datasets.load("en_de", "train").take(2000))
    return [text for text in texts if len(text) < 40][:150]


def mixture(
    kind: str, model: kmm.MultiModel, position: kmm.data.Position | None = None
) -> tuple[tf.data.Dataset, list[keras.callbacks.Callback]]:
    """Returns the data of a training, ten steps an epoch, and callbacks that belong to it."""
    texts = tf.data.Dataset.from_tensor_slices(sentences())
    raw = {
        "digits": kmm.datasets.load("digits", "train").take(150),
        "copy": texts.map(lambda text: {"inputs": text, "targets": text}),
    }
    data = {
        name: kmm.data.encode(examples, model.tasks[name], cache=True)
        for name, examples in raw.items()
    }
    if kind != "mixed":
        train = kmm.data.mix(data, batch_size=15, steps=10, lengths=1, position=position)
        return train, early_stopping() if kind == "joint" else []
    schedule = kmm.data.schedules.Adaptive(decay=0.5, window=8)
    train = kmm.data.mix(
        data,
        batch_size=8,
        token_budget={"copy": 600},
        lengths=2,
        steps=10,
        schedule=schedule,
        position=position,
    )
    transforms = {"digits": kmm.data.ImageAugment(shift=2)}
    return kmm.data.augment(train, transforms, position=position), [schedule]


def early_stopping() -> Sequence[keras.callbacks.Callback]:
    """Returns callbacks that watch the loss and ask for more than it can give."""
    options = {"monitor": "loss", "min_delta": 0.05}
    return [
        keras.callbacks.ReduceLROnPlateau(patience=1, **options),
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True, **options),
    ]
