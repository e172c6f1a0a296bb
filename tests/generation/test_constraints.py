import numpy as np
import pytest
from keras import ops

from keras_multimodel.data.preprocessing.trees import delinearize, train_tree_preprocessor
from keras_multimodel.generation import TreeConstraint
from keras_multimodel.generation.loop import SamplingLoop
from keras_multimodel.generation.samplers import Greedy
from tests.generation.writers import TREES, Table, run

ROWS = 60


@pytest.mark.parametrize("length", [9, 12, 40])
def test_only_trees_over_exactly_the_words(length):
    """Whatever the model prefers, and however few ids are left."""
    trees = train_tree_preprocessor(TREES)
    rng = np.random.default_rng(length)
    sentences = [" ".join("w" * rng.integers(1, 7)) for _ in range(ROWS)]
    constraint = trees.constraint()
    assert constraint.minimum_length(sentences) == [len(s.split()) + 3 for s in sentences]
    table = Table(rng.normal(size=(ROWS, 500, trees.vocabulary_size)) * 3)
    search = SamplingLoop(table, Greedy(), constraint)
    state = run(search, ROWS, length, constraint.initial_state(sentences))
    assert ops.convert_to_numpy(state["ended"]).all()
    for ids, sentence in zip(ops.convert_to_numpy(state["ids"]), sentences):
        ids = ids[: list(ids).index(1)]
        symbols = [trees.symbols[i - 3] for i in ids]
        tree = delinearize(symbols, sentence.split())  # raises where it is none
        assert tree == trees.decode(ids, sentence)
        assert symbols[0].startswith("(")


def test_all_trees_can_be_written():
    trees = train_tree_preprocessor(TREES)
    constraint = trees.constraint()
    for tree, words in zip(TREES, (3, 2)):
        state = constraint.initial_state([" ".join("w" * words)])
        ids = np.asarray(trees(tree))
        for t, i in enumerate(ids):
            state = {name: ops.convert_to_tensor(x) for name, x in state.items()}
            allowed = constraint.allowed(state, ops.convert_to_tensor(len(ids) - t))
            assert bool(ops.convert_to_numpy(allowed)[0, i])
            state = constraint.advance(state, ops.convert_to_tensor(np.array([i], "int32")))


@pytest.mark.parametrize("symbols", [["(S", ")S"], ["NN", "(S"], ["NN"]])
def test_symbols_that_make_no_tree(symbols):
    with pytest.raises(ValueError, match="`symbols` must have a tag, .* Received: symbols="):
        TreeConstraint(symbols, len)
