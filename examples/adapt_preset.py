"""Fine-tunes the preset on 200 pairs of a domain that it has not seen: in full, and with LoRA.

Run from the repository: `python examples/adapt_preset.py`. It takes some minutes on two CPU cores.
The domain is German into French, which the preset was never trained on: the translations of one
English sentence. Measured is the log-perplexity of 300 held-out pairs.
"""

import argparse
import math
import time

import keras
import numpy as np
import tensorflow as tf

import keras_multimodel as kmm

TASK = "en_fr"  # the task that learns to read German
PAIRS, HELD_OUT = 200, 300
MAX_WORDS = 12
BATCH = 25
EPOCHS = 8
# Chosen on validation pairs.
LEARNING_RATES = {"full": 5e-4, "lora": 5e-3}


def german_french(split):
    """Returns the German and French translations of the English sentences of a split."""
    tables = []
    for name in ("en_de", "en_fr"):
        raw = kmm.datasets.load(name, split).batch(4096).as_numpy_iterator()
        tables.append({a: b for x in raw for a, b in zip(x["inputs"], x["targets"])})
    german, french = tables
    pairs = [(german[text].decode(), french[text].decode()) for text in german if text in french]
    return [pair for pair in pairs if all(len(text.split()) <= MAX_WORDS for text in pair)]


def examples(model, pairs):
    """Returns pairs as encoded examples for the model."""
    inputs, targets = zip(*pairs)
    raw = tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})
    return kmm.data.encode(raw, model.tasks[TASK], cache=True)


class Run:
    """One way of fine-tuning, which starts anew for each seed."""

    def __init__(self, kind, rank, rate, epochs):
        self.epochs = epochs
        self.model = kmm.MultiModel.from_preset("eight_tasks_tiny").task_model(TASK, copy=True)
        total = self.model.count_params()
        if kind == "lora":
            self.model.enable_lora(rank)
        self.trained = sum(math.prod(w.shape) for w in self.model.trainable_weights) / total
        steps = epochs * math.ceil(PAIRS / BATCH)
        schedule = keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.0)
        self.model.compile(keras.optimizers.Adam(schedule, global_clipnorm=2.0))
        self.start = [np.array(weight) for weight in self.model.weights]

    def reset(self, seed):
        """Gives the model its first weights, and new adapters."""
        keras.utils.set_random_seed(seed)
        for weight, value in zip(self.model.weights, self.start):
            weight.assign(value)
            if weight.name.startswith("lora_") and weight.name.endswith("_a"):
                weight.assign(np.random.permutation(value.ravel()).reshape(value.shape))
        for variable in self.model.optimizer.variables:
            if variable.name != "learning_rate":
                variable.assign(keras.ops.zeros_like(variable))

    def fit(self, pairs, seed):
        """Trains on pairs."""
        data = examples(self.model, pairs).shuffle(len(pairs), seed=seed)
        self.model.fit(kmm.data.batch(data, TASK, BATCH), epochs=self.epochs, verbose=0)

    def measure(self, pairs):
        """Returns the log-perplexity of pairs."""
        data = kmm.data.batch(examples(self.model, pairs), TASK, 64)
        return self.model.evaluate(data, verbose=0, return_dict=True)["log_perplexity"]


def main(seeds, rank, split, rates, epochs):
    known, held_out = german_french("train"), german_french(split)
    held_out = [held_out[i] for i in np.random.default_rng(0).permutation(len(held_out))]
    held_out = held_out[:HELD_OUT]
    print(f"{PAIRS} pairs of {len(known)} to train on, {len(held_out)} held out", flush=True)
    gains = {}
    for kind, rate in rates.items():
        run = Run(kind, rank, rate, epochs)
        before = run.measure(held_out)
        print(f"{kind}: {run.trained:.1%} of the weights train; before: {before:.3f}", flush=True)
        for seed in range(seeds):
            start = time.time()
            run.reset(seed)
            chosen = np.random.default_rng(seed).choice(len(known), PAIRS, replace=False)
            run.fit([known[i] for i in chosen], seed)
            seconds = time.time() - start
            after = run.measure(held_out)
            gains[kind, seed] = before - after
            print(f"{kind}, seed {seed}: {after:.3f} ({seconds:.0f} s)", flush=True)
    if len(rates) == 2:
        shares = [gains["lora", seed] / gains["full", seed] for seed in range(seeds)]
        print("share of the gain:", *(f"{share:.2f}" for share in shares))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=3)
    parser.add_argument("--split", default="test")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--full", type=float, default=LEARNING_RATES["full"])
    parser.add_argument("--lora", type=float, default=LEARNING_RATES["lora"])
    given = parser.parse_args()
    rates = {"full": given.full, "lora": given.lora}
    rates = {kind: rate for kind, rate in rates.items() if rate}
    main(given.seeds, given.rank, given.split, rates, given.epochs)
