"""Vocabularies to which more is added."""

import pytest

import keras_multimodel as kmm

SENTENCES = ["Save the file.", "Open the file.", "Close it."]
TREE = "(S (NP (DT The) (NN file)))"
MAKE = {
    "category": lambda: kmm.data.CategoryPreprocessor(["bug", "question"]),
    "unigram": lambda: kmm.data.train_text_preprocessor(SENTENCES, 276),
    "bpe": lambda: kmm.data.train_text_preprocessor(SENTENCES, 290, model_type="bpe"),
    "word_piece": lambda: kmm.data.train_word_piece_preprocessor(SENTENCES, 60),
    "tree": lambda: kmm.data.train_tree_preprocessor([TREE]),
}
KNOWN = {"category": "question", "tree": TREE}


@pytest.mark.parametrize("name", MAKE)
def test_what_is_known_keeps_its_ids(name):
    old = MAKE[name]()
    new = ["VBZ"] if name == "tree" else ["Kubernetes", "zoom"]
    more = old.extended(new)
    raw = KNOWN.get(name, "Save the file.")
    assert more(raw).numpy().tolist() == old(raw).numpy().tolist()
    if name != "category":
        assert more.vocabulary_size == old.vocabulary_size + len(new)
    again = type(more).from_config(more.get_config())
    assert again(raw).numpy().tolist() == old(raw).numpy().tolist()


@pytest.mark.parametrize("name", ["unigram", "bpe", "word_piece"])
def test_new_words_are_one_piece(name):
    old = MAKE[name]()
    more = old.extended(["Kubernetes", "zoom"])
    size = old.vocabulary_size
    ids = more("zoom the Kubernetes file").numpy().tolist()
    assert ids[0] == size + 1 and size in ids
    assert more.decode(ids) == "zoom the Kubernetes file"
    assert size not in old("zoom the Kubernetes file").numpy()


def test_what_cannot_be_added():
    with pytest.raises(ValueError, match="`new` must hold words .*Received: 'two words'"):
        MAKE["unigram"]().extended(["two words"])
    more = MAKE["unigram"]().extended("Kubernetes")
    with pytest.raises(ValueError, match="Received: 'Kubernetes'"):
        more.extended(["Kubernetes"])
    with pytest.raises(ValueError, match="no piece twice.*'zoom' twice"):
        MAKE["word_piece"]().extended(["zoom", "zoom"])
    with pytest.raises(ValueError, match="`new` must be for .*ImagePreprocessor"):
        kmm.data.ImagePreprocessor().extended(["a"])
