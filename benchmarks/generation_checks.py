"""What generation promises, on a trained model and held-out inputs.

Usage: python benchmarks/generation_checks.py [--model runs/eight_tasks/model.keras] [--inputs 200]
[--alone 40] [--tasks ...]. Prints one line of JSON a task:

- `cached_differ`: inputs for which greedy search with caches writes other ids than without;
- `alone_differ`: per sampler, those of the first `--alone` inputs that get other ids alone than in
  a batch;
- for trees, per way of writing: `ill_formed`, those that nltk does not read as a tree over exactly
  the words of the sentence.

Held-out inputs are the test and the validation split. Where these are fewer than asked for, crops
of the sentences, and the audio at other speeds and loudnesses, follow.
"""

import argparse
import itertools
import json
import time

import keras
import nltk
import numpy as np

import keras_multimodel as kmm
from keras_multimodel.data.preprocessing.audio_files import read_waveform
from keras_multimodel.data.preprocessing.trees import escape

SAMPLERS = ("greedy", "random", "top_k", "top_p", "beam")
RATE = 8000


def held_out(name, count):
    """Returns `count` raw inputs that no training used."""
    examples = [
        example["inputs"]
        for split in ("test", "validation")
        for example in kmm.datasets.load(name, split).as_numpy_iterator()
    ]
    changed = {"speech": respoken, "emoji": recoloured}.get(name, cropped)
    made = (changed(x, i) for i in itertools.count(1) for x in examples)
    return list(itertools.islice(itertools.chain(examples, made), count))


def cropped(sentence, turn):
    """Returns a sentence without its last `turn` words, its first word if no other is left."""
    words = sentence.decode().split()
    return " ".join(words[: max(1, len(words) - turn)])


def respoken(file, turn):
    """Returns samples of another speed and loudness."""
    samples = read_waveform(file, RATE).numpy()
    speed = 1.0 + 0.06 * turn * (-1) ** turn
    places = np.arange(0, len(samples) - 1, speed)
    faster = np.interp(places, np.arange(len(samples)), samples)
    return (faster * 0.8**turn).astype("float32")


def recoloured(image, turn):
    """Returns a darker image."""
    return (image * 0.9**turn).astype("uint8")


def rows_that_differ(outputs, others):
    """Returns how many outputs have other ids, or another end."""
    ended = zip(outputs.ended, others.ended)
    pairs = zip(outputs, others, ended)
    return sum(list(a) != list(b) or e[0] != e[1] for a, b, e in pairs)


def one_by_one(model, name, inputs, sampler, **arguments):
    """Returns what each input gets alone."""
    parts = [
        model.generate(name, [x], sampler, seed=[i], **arguments) for i, x in enumerate(inputs)
    ]
    ended = [part.ended[0] for part in parts]
    return kmm.generation.Generation([part[0] for part in parts], ended)


def check(model, name, count, count_alone):
    """Returns the measures of a task."""
    start = time.time()
    inputs = held_out(name, count)
    cached = model.generate(name, inputs)
    recomputed = model.generate(name, inputs, use_cache=False)
    few = inputs[:count_alone]
    alone = {
        sampler: rows_that_differ(
            model.generate(name, few, sampler, seed=list(range(count_alone))),
            one_by_one(model, name, few, sampler),
        )
        for sampler in SAMPLERS
    }
    return {
        "task": name,
        "inputs": count,
        "ids": sum(len(x) for x in cached),
        "different_outputs": len({tuple(x) for x in cached}),
        "cut_off": cached.ended.count(False),
        "cached_differ": rows_that_differ(cached, recomputed),
        "alone": count_alone,
        "alone_differ": alone,
        "seconds": round(time.time() - start),
    }


def is_tree_over(tree, sentence):
    """Returns whether nltk reads a tree whose leaves are the words of the sentence."""
    try:
        leaves = nltk.Tree.fromstring(tree).leaves()
    except ValueError:
        return False
    words = [escape(word) for word in sentence.decode().split()]
    return leaves == words


def check_trees(model):
    """Returns how many trees of the test split are none, by sampler and room for them."""
    examples = kmm.datasets.load("parse", "test").as_numpy_iterator()
    sentences = [example["inputs"] for example in examples]
    shortest = max(len(sentence.split()) for sentence in sentences) + 3
    ways = {sampler: {"sampler": sampler, "seed": 0} for sampler in SAMPLERS}
    ways["greedy, least room"] = {"max_length": shortest}
    ways["beam, least room"] = {"sampler": "beam", "max_length": shortest}
    result = {}
    for way, arguments in ways.items():
        trees = model.generate("parse", sentences, **arguments)
        result[way] = sum(not is_tree_over(*pair) for pair in zip(trees, sentences))
    return {"task": "parse", "sentences": len(sentences), "ill_formed": result}


def main(path, count, count_alone, names):
    model = keras.saving.load_model(path, compile=False)
    if "parse" in names:
        print(json.dumps(check_trees(model)), flush=True)
    for task in model.tasks.values():  # ids instead of raw outputs
        if task.autoregressive:
            task.targets.preprocessor.decode = lambda ids, raw: ids[ids != 0]
    for name in names:
        print(json.dumps(check(model, name, count, count_alone)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="runs/eight_tasks/model.keras")
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--alone", type=int, default=40)
    tasks = ["emoji", "speech", "parse", "en_de", "de_en", "en_fr", "fr_en"]
    parser.add_argument("--tasks", nargs="+", default=tasks)
    arguments = parser.parse_args()
    main(arguments.model, arguments.inputs, arguments.alone, arguments.tasks)
