"""Trains the preset "eight_tasks_tiny" on all data that ships with the library.

Run from the repository: `python examples/train_preset.py`, or `make preset`. It takes hours on two
CPU cores, and may be killed and started again at any time: it then continues where its last save
was, some minutes back at most. `runs/preset` holds its state, the measures of each epoch in
`log.jsonl`, and at the end `model.keras`.

The learning rate rises, stays, and falls over the last `--decay` epochs. To end a run early, give
fewer `--epochs` than planned, but at least `--decay` more than it has had.
"""

import argparse
import json
import os
import pathlib
import shutil

import eight_tasks
import keras
import tensorflow as tf

import keras_multimodel as kmm

HIDDEN_DIM = eight_tasks.HIDDEN_DIM
TRANSLATION = eight_tasks.TRANSLATION
# Examples of each small task in a step, and positions of each translation, inputs and targets
# together. The small tasks are seen more often than the translations, not much more.
SHARES = {"digits": 14, "emoji": 6, "speech": 3, "parse": 4}
TOKEN_BUDGET = 2048
STEPS_PER_EPOCH = 100
LEARNING_RATE = 2e-3


def texts():
    """Returns the sentences from which subwords are learned: all of them."""
    found = []
    for name in ("en_de", "en_fr"):
        batches = kmm.datasets.load(name).batch(4096).as_numpy_iterator()
        found += [text for batch in batches for side in batch.values() for text in side]
    found += [caption for _, caption in eight_tasks.raw("emoji")]
    return found + [sentence for sentence, _ in eight_tasks.raw("parse")]


def make_model(tasks):
    """Builds the model, not compiled."""
    texts = ["speech", "parse", *TRANSLATION]
    return kmm.MultiModel.from_variant(
        "tiny",
        tasks,
        # A step holds short or long examples of all tasks (see `mixture`), so that what passes the
        # body as one batch has similar lengths. Characters and brackets are longer than subwords.
        encoder_groups=[["digits", "emoji"], texts],
        decoder_groups=[["emoji", *TRANSLATION], ["speech", "parse"]],
    )


def saved_model(folder):
    """Returns the model before training, made once: each start gives its words the same ids."""
    path = folder / "untrained.keras"
    if not path.exists():
        part = folder / "untrained.part.keras"
        make_model(eight_tasks.make_tasks(texts(), vocabulary_size=6000)).save(part)
        os.replace(part, path)
    keras.utils.set_random_seed(1)  # making it took random numbers; a restart does not make it
    return keras.saving.load_model(path)


def encoded(task, folder):
    """Returns the training examples of a task, encoded once: 160,000 pairs take minutes."""
    path = folder / "data" / task.name
    if not path.exists():
        part = path.with_name(f"{task.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        kmm.data.encode(kmm.datasets.load(task.name), task).save(str(part))
        os.replace(part, path)
    return tf.data.Dataset.load(str(path)).cache()


def mixture(tasks, position, folder):
    """Returns the training data: every step holds all tasks, small ones changed at random."""
    data = {name: encoded(task, folder) for name, task in tasks.items()}
    steps = kmm.data.mix(
        data,
        shares=SHARES,
        token_budget=dict.fromkeys(TRANSLATION, TOKEN_BUDGET),
        lengths=4,
        steps=STEPS_PER_EPOCH,
        buffer_size=1 << 16,  # a whole pass
        seed=1,
        position=position,
    )
    # Not the digits, which the demo learns well as they are.
    shift = kmm.data.ImageAugment(shift=2, brightness=0.0, contrast=0.0)
    changes = {"emoji": shift, "speech": kmm.data.SpecAugment()}
    return kmm.data.augment(steps, changes, seed=1, position=position)


def validation(tasks):
    """Returns held-out data: a quarter of the pairs, and all of the small tasks."""
    data = {}
    for name, task in tasks.items():
        raw = kmm.datasets.load(name, "validation")
        data[name] = kmm.data.encode(raw.shard(4, 0) if name in TRANSLATION else raw, task)
    shares = {"digits": 60, "emoji": 11, "speech": 3, "parse": 11} | dict.fromkeys(TRANSLATION, 64)
    return kmm.data.mix(data, shares=shares, shuffle=False, steps=8).cache()


class Log(keras.callbacks.Callback):
    """Appends the logs of each epoch to a file."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        with open(self.path, "a") as file:
            print(json.dumps({"epoch": epoch + 1, **logs}), file=file)


def main(epochs, decay, folder):
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(1)
    model = saved_model(folder)
    position = kmm.data.Position()
    # The average of the weights is what is evaluated, and what the model has at the end of `fit`.
    model.compile(
        keras.optimizers.Adam(
            LEARNING_RATE, beta_2=0.98, global_clipnorm=2.0, use_ema=True, ema_momentum=0.99
        )
    )
    callbacks = [
        keras.callbacks.LearningRateScheduler(
            lambda epoch: LEARNING_RATE * min(1.0, (epoch + 1) / 3, (epochs - epoch) / decay)
        ),
        keras.callbacks.SwapEMAWeights(),
        Log(folder / "log.jsonl"),
        kmm.callbacks.TaskTable(),
        kmm.callbacks.Resume(folder, position, save_freq=25),
    ]
    model.fit(
        mixture(model.tasks, position, folder),
        steps_per_epoch=STEPS_PER_EPOCH,
        epochs=epochs,
        validation_data=validation(model.tasks),
        validation_freq=5,
        callbacks=callbacks,
    )
    model.save(folder / "model.keras")
    print(f"{epochs} epochs are done; the model is {folder / 'model.keras'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--decay", type=int, default=16)
    parser.add_argument("--folder", type=pathlib.Path, default="runs/preset")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.decay, arguments.folder)
