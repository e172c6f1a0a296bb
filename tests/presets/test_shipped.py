"""The preset that ships with the library: it loads, and is as good as its card says."""

import re

import pytest

import keras_multimodel as kmm
from keras_multimodel.evaluation import evaluate, text_measures
from keras_multimodel.presets.folder import SHIPPED

NAME = "eight_tasks_tiny"


@pytest.fixture(scope="module")
def model():
    return kmm.MultiModel.from_preset(NAME)


@pytest.fixture(scope="module")
def card():
    """Returns the rows of the card's first table: task -> measure -> text."""
    lines = (SHIPPED / NAME / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    heads = rows[0]
    return {row[0]: dict(zip(heads, row)) for row in rows[2:] if len(row) == len(heads)}


def test_it_is_small_and_listed():
    assert kmm.presets.names() == (NAME,)
    assert sum(file.stat().st_size for file in (SHIPPED / NAME).iterdir()) < 12e6


def test_it_has_the_eight_tasks_and_a_card_of_all(model, card):
    tasks = ["digits", "emoji", "speech", "parse", "en_de", "de_en", "en_fr", "fr_en"]
    assert list(model.tasks) == tasks
    assert set(tasks) <= set(card)
    text = (SHIPPED / NAME / "README.md").read_text()
    for name in tasks:
        assert kmm.datasets.info(name).licence in text


def test_its_summary_fits_on_a_page(model):
    lines = []
    model.summary(print_fn=lines.append)
    assert len(lines) <= 60
    assert f"{model.count_params():,}" in lines[-1]
    assert max(map(len, lines)) <= 120


SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ("parse", "speech")]


@pytest.mark.parametrize("task", ["digits", *SLOW])
def test_the_card_tells_what_is_measured(model, card, task):
    found = evaluate(model, {task: kmm.datasets.load(task, "test")}, batch_size=64)[task]
    for measure, value in found.items():
        shown = card[task][measure]
        digits = len(re.sub(r"\d*\.?", "", shown, count=1))
        assert round(value, digits) == pytest.approx(float(shown), abs=0.0051), measure


@pytest.mark.slow
@pytest.mark.parametrize("task", ["en_de", "de_en", "en_fr", "fr_en"])
def test_translations_are_better_than_copies(model, task):
    pairs = [*kmm.datasets.load(task, "test").shard(50, 0).as_numpy_iterator()]
    inputs, targets = ([pair[key].decode() for pair in pairs] for key in ("inputs", "targets"))
    written = list(model.generate(task, inputs))
    ours, copied = text_measures(written, targets), text_measures(inputs, targets)
    assert ours["chrf"] > copied["chrf"] + 5 and ours["bleu"] > copied["bleu"] + 5
