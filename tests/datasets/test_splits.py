import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_multimodel import datasets
from keras_multimodel.datasets import sources

TEXT_SETS = ("speech", "en_de", "en_fr", "parse", "emoji")


def sentences(name, split):
    """All natural-language sides of a split, as letters."""
    texts = []
    for language in ("en", "de", "fr") if name == "emoji" else ("en",):
        dataset = datasets.load(name, split, language=language)
        side = {"speech": ["targets"], "emoji": ["targets"], "parse": ["inputs"]}
        for key in side.get(name, ["inputs", "targets"]):
            for batch in dataset.map(lambda e, key=key: e[key]).batch(8192).as_numpy_iterator():
                texts.extend(text.decode() for text in batch)
    return {re.sub(r"[\W\d_]", "", text.lower()) for text in texts} - {""}


def test_no_sentence_is_in_two_splits_of_any_data_sets_in_any_language():
    held = {
        split: set().union(*(sentences(name, split) for name in TEXT_SETS))
        for split in sources.SPLITS
    }
    assert all(len(texts) > 100 for texts in held.values())
    assert not held["train"] & held["test"]
    assert not held["train"] & held["validation"]
    assert not held["validation"] & held["test"]


@pytest.mark.parametrize("name", ["speech", "en_de", "en_fr", "parse"])
def test_english_sentence_decides(name):
    for split, bucket in (("test", 0), ("validation", 1)):
        for example in datasets.load(name, split).as_numpy_iterator():
            english = example["targets" if name == "speech" else "inputs"].decode()
            letters = re.sub(r"[\W\d_]", "", english.lower())
            assert zlib.crc32(letters.encode()) % 20 == bucket


def test_variants_of_an_emoji_stay_together():
    of_rows = sources.text_splits()["emoji"]
    by_point = {}
    for code, split in zip(sources.table("emoji")["unified"], of_rows, strict=True):
        if split is not None:
            by_point.setdefault(code.split("-")[0], set()).add(split)
    assert max(len(of_point) for of_point in by_point.values()) == 1
    # 1F44B (waving hand) has six rows: five skin tones and none.
    waving = [code for code in sources.table("emoji")["unified"] if code.startswith("1F44B")]
    assert len(waving) == 6


def test_few_examples_leave_to_keep_the_splits_apart():
    left = {name: of_rows.count(None) for name, of_rows in sources.text_splits().items()}
    assert left == {
        "emoji": 36,
        "speech": 4,
        "en_de": 1,
        "en_fr": 4,
        "libreoffice_en_de": 410,
        "libreoffice_en_fr": 231,
        "parse": 0,
    }


def test_assign_prefers_test_then_validation():
    keys = {sources.split_of(str(number)): str(number) for number in range(100)}
    train, validation, test = keys["train"], keys["validation"], keys["test"]
    assert [zlib.crc32(key.encode()) % 20 for key in (test, validation)] == [0, 1]
    assigned = sources.assign(
        {"x": [test, validation, train, train], "y": [train, validation]},
        {
            "x": [("One.", "Un"), ("Two!", "Deux"), ("three", "TROIS"), ("four", "deux")],
            "y": [("five", "un "), ("six", "un")],
        },
    )
    assert assigned == {"x": ["test", "validation", "train", None], "y": [None, None]}


@given(st.text())
def test_letters_ignores_case_space_and_punctuation(text):
    letters = sources.letters(text)
    assert letters == sources.letters(f" {text}. 12\n")
    assert all(char.isalpha() for char in letters)
