"""Searches sizes of a two-task model with KerasTuner: `pip install keras-tuner`.

Run from the repository: `python examples/tune.py`. The tasks are the digits that ship with the
library, as a class and as a word; a trial is a training of some hundred steps. What counts is the
log-perplexity of both tasks on held-out digits: the sum of losses, `val_loss`, would do as well,
but is not comparable where the losses differ.
"""

import argparse
import pathlib

import keras
import keras_tuner
import tensorflow as tf

import keras_multimodel as kmm

WORDS = "zero one two three four five six seven eight nine".split()


class DigitsTwice(keras_tuner.HyperModel):
    """Builds and fits a model of some hyperparameters.

    Args:
        examples: raw digits: pairs of data sets, for training and for validation.
        steps: steps of an epoch.
        **compile_options: further arguments of `compile`.
    """

    def __init__(self, examples, steps, **compile_options):
        super().__init__()
        self.examples = examples
        self.steps = steps
        self.compile_options = compile_options
        self.letters = kmm.data.train_text_preprocessor(WORDS, 64, "char", byte_fallback=False)

    def build(self, hp):
        width = hp.Choice("hidden_dim", [32, 64])
        pixels = kmm.data.ImagePreprocessor((28, 28))
        image = kmm.layers.ImageModality(width, (28, 28, 3), num_blocks=1, preprocessor=pixels)
        labels = kmm.data.CategoryPreprocessor(range(10))
        digit = kmm.layers.CategoryModality(10, width, preprocessor=labels)
        size = self.letters.vocabulary_size
        word = kmm.layers.TextModality(size, width, preprocessor=self.letters)
        moe = None
        if hp.Boolean("experts"):
            number = hp.Choice("num_experts", [4, 16], parent_name="experts", parent_values=[True])
            moe = kmm.layers.MoELayer(width, number, top_k=2, intermediate_dim=width)
        model = kmm.MultiModel(
            [kmm.Task("digit", image, digit), kmm.Task("word", image, word, max_target_length=8)],
            width,
            kmm.layers.ConvBlock(width, (3, 3), dilation_rates=(1, 1), dropout=0.0),
            kmm.layers.AttentionBlock(width, num_heads=4),
            moe,
            num_encoder_blocks=hp.Int("num_encoder_blocks", 0, 2),
            num_mixer_blocks=0,
            num_decoder_blocks=1,
        )
        rate = hp.Float("learning_rate", 3e-4, 1e-2, sampling="log")
        optimizer = keras.optimizers.Adam(rate, global_clipnorm=2.0)
        model.compile(optimizer, **self.compile_options)
        return model

    def fit(self, hp, model, **arguments):
        train, held_out = (self.encoded(part, model.tasks) for part in self.examples)
        return model.fit(
            kmm.data.mix(train, batch_size=32, seed=1, steps=self.steps),
            validation_data=kmm.data.mix(held_out, batch_size=64, shuffle=False, steps=4),
            **arguments,
        )

    def encoded(self, digits, tasks):
        """Returns the examples of both tasks: the digit itself, and its word."""

        def spell(example):
            return {**example, "targets": tf.gather(WORDS, example["targets"])}

        raw = {"digit": digits, "word": digits.map(spell)}
        return {name: kmm.data.encode(raw[name], task) for name, task in tasks.items()}


class BothLogPerplexities(keras.callbacks.Callback):
    """Adds the sum of the tasks' held-out log-perplexities to the logs, which tuners read."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_log_perplexity"] = sum(
            logs[f"val_{name}_log_perplexity"] for name in self.model.tasks
        )


def search(trials, epochs, steps, folder, **compile_options):
    """Returns a tuner after its search.

    Args:
        trials: number of models to train.
        epochs: epochs of each.
        steps: steps of an epoch.
        folder: where KerasTuner keeps the trials; a search that was cut continues there.
        **compile_options: further arguments of `compile`.
    """
    digits = kmm.data.split(kmm.datasets.load("digits"), test=0.2)
    tuner = keras_tuner.RandomSearch(
        DigitsTwice(digits, steps, **compile_options),
        objective=keras_tuner.Objective("val_log_perplexity", "min"),
        max_trials=trials,
        seed=1,
        directory=folder,
        project_name="digits_twice",
    )
    tuner.search(epochs=epochs, callbacks=[BothLogPerplexities(), kmm.callbacks.TaskTable()])
    return tuner


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--folder", type=pathlib.Path, default="runs/tune")
    arguments = parser.parse_args()
    tuner = search(arguments.trials, arguments.epochs, arguments.steps, arguments.folder)
    tuner.results_summary(num_trials=3)
