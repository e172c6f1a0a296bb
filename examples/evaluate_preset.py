"""Measures a trained preset on held-out test data of its eight tasks, and writes its model card.

Run from the repository: `python examples/evaluate_preset.py`, or `make evaluate-preset`. It takes
some minutes on two CPU cores, and prints the tables of the card. `--model FILE --preset FOLDER`
first makes a preset of a model that `examples/train_preset.py` trained.

Two baselines stand beside the translations: the input itself, and the translation of the training
sentence that is most like the input.
"""

import argparse
import pathlib
import platform
import time

import keras
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

import keras_multimodel as kmm
from keras_multimodel.evaluation import text_measures

NAME = "eight_tasks_tiny"
TRANSLATION = ("en_de", "de_en", "en_fr", "fr_en")
# A part of the test pairs: beams of all take long.
SAMPLE = 8
SHORT = 8  # words
MEASURES = ("log_perplexity", "accuracy", "bleu", "chrf", "exact", "cer", "wer", "bracket_f1")


def held_out(name, split="test"):
    """Returns the raw examples of a task, of translations every eighth."""
    data = kmm.datasets.load(name, split)
    return data.shard(SAMPLE, 0) if name in TRANSLATION else data


def texts(data):
    """Returns raw examples of texts as two lists of strings, inputs and targets."""
    batches = [*data.batch(4096).as_numpy_iterator()]
    return [
        [text.decode() for batch in batches for text in batch[k]] for k in ("inputs", "targets")
    ]


def nearest(inputs, name):
    """Returns the translations of the training sentences with the fewest edits per character."""
    known, translations = texts(kmm.datasets.load(name))
    similarity = Levenshtein.normalized_similarity
    found = (process.extractOne(text, known, scorer=similarity) for text in inputs)
    return [translations[number] for _, _, number in found]


def translation_rows(model, name, sampler):
    """Yields rows of a table: texts, who wrote them, BLEU and chrF."""
    inputs, targets = texts(held_out(name))
    written = {
        "model": list(model.generate(name, inputs, sampler)),
        "copy of the input": inputs,
        "nearest training sentence": nearest(inputs, name),
    }
    short = [i for i, text in enumerate(inputs) if len(text.split()) <= SHORT]
    for label, rows in (("all", range(len(inputs))), (f"up to {SHORT} words", short)):
        for writer, outputs in written.items():
            found = text_measures([outputs[i] for i in rows], [targets[i] for i in rows])
            values = [f"{found[key]:.1f}" for key in ("bleu", "chrf")]
            yield [name, label, str(len(rows)), writer, *values]


def table(heads, rows):
    """Returns a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measures(model, sampler):
    """Returns the tables of the card."""
    data = {name: held_out(name) for name in model.tasks}
    found = kmm.evaluation.evaluate(model, data, sampler, batch_size=64)
    rows = []
    for name, values in found.items():
        digits = {"bleu": 1, "chrf": 1}
        cells = [
            f"{values[key]:.{digits.get(key, 3)}f}" if key in values else "" for key in MEASURES
        ]
        rows.append([name, str(sum(1 for _ in data[name])), *cells])
        print(*rows[-1], flush=True)
    beside = [row for name in TRANSLATION for row in translation_rows(model, name, sampler)]
    heads = ["task", "texts", "examples", "written by", "BLEU", "chrF"]
    return "\n\n".join([table(["task", "examples", *MEASURES], rows), table(heads, beside)])


CARD = """# {name}

One `MultiModel` of {parameters:.1f} M parameters that does eight tasks: digits, captions of emoji,
short spoken sentences, parse trees, and translation between English and German, English and French.
Use it with `kmm.MultiModel.from_preset("{name}")`.

## Data

All of it ships with the library, `kmm.datasets.info(name)` has sources, authors and licenses:

{data}

Translations are interface texts and help of GNOME and LibreOffice. The model has seen nothing else.

## Training

{training}

## Measures

On the test split, of which neither training nor any choice saw anything, of the translations every
{sample}th pair; `generate` with {sampler}. Measured by `make evaluate-preset`.

{tables}

## Limits

Made to show that one small model can learn eight tasks, and for work on such models. It translates
short texts of graphical interfaces, and little else; names and rare words come out misspelled. It
captions emoji, not photographs, and transcribes one speaker's short sentences. Where a translation
is not above both baselines in the table, looking up the nearest sentence serves as well. Nothing
should depend on the model's answers.
"""


def data_list(model):
    """Returns the data sets, their sizes and licenses as a list in Markdown."""
    lines = []
    for name in model.tasks:
        info = kmm.datasets.info(name)
        lines.append(
            f"- `{name}`: {info.examples['train']} training examples. {info.source}; {info.licence}"
        )
    return "\n".join(lines)


def main(preset, model_file, training, beam):
    sampler = kmm.generation.BeamSearch(beam) if beam > 1 else "greedy"
    if model_file:
        model = keras.saving.load_model(model_file)
        model.save_to_preset(preset, dtype="float16")
    # As users get it: with weights of 16 bits.
    start = time.time()
    model = kmm.MultiModel.from_preset(preset)
    print(f"loaded in {time.time() - start:.1f} s")
    tables = measures(model, sampler)
    print(f"\n{tables}")
    if model_file:
        described = CARD.format(
            name=pathlib.Path(preset).name,
            parameters=model.count_params() / 1e6,
            data=data_list(model),
            training=f"{training}\n\nMachine: {platform.machine()}, two CPU cores, no accelerator.",
            sample=SAMPLE,
            sampler=f"{beam} beams" if beam > 1 else "greedy choice",
            tables=tables,
        )
        model.save_to_preset(preset, dtype="float16", card=described)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default=NAME)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--training", default="", help="a paragraph of the card")
    parser.add_argument("--beam", type=int, default=1)
    given = parser.parse_args()
    main(given.preset, given.model, given.training, given.beam)
