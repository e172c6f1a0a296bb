import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_multimodel as kmm
from keras_multimodel.models.compile_guard import CompileGuard
from tests.models.small_models import build, make_tasks


def sequences(size, longest=12):
    random = np.random.default_rng(0)
    lengths = random.integers(1, longest + 1, size).tolist()

    def example(length):
        return {"inputs": tf.ones([length], "int32"), "targets": tf.ones([length], "int32")}

    return tf.data.Dataset.from_tensor_slices(lengths).map(example)


def small_model(**compile_arguments):
    model = build(make_tasks("copy"), moe=None, attention_block=None, num_encoder_blocks=1)
    model.compile("adam", **compile_arguments)
    return model


def batch(*shapes):
    parts = [np.zeros(shape, "int32") for shape in shapes]
    return {"copy": {"inputs": parts[0], "targets": parts[1]}}, {"copy": parts[1]}


def test_warns_once_at_the_third_shape():
    guard = CompileGuard("fit", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for width in (3, 5, 3, 5):
            guard.meet(batch((2, width), (2, 4)))
    with pytest.warns(UserWarning, match=r"`fit` compiles .*copy.inputs \(2, 9\).*`lengths=3`"):
        guard.meet(batch((2, 9), (2, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.meet(batch((2, 11), (2, 4)))


def test_a_batch_may_hold_none():
    guard = CompileGuard("fit", None)
    for width in (3, 5):
        guard.meet((*batch((2, width), (2, 4)), None))
    with pytest.warns(UserWarning, match="compiles a program") as caught:
        guard.meet((*batch((2, 9), (2, 4)), None))
    assert caught[0].filename == __file__


def test_a_mixture_may_have_the_shapes_that_it_announced():
    guard = CompileGuard("fit", types.SimpleNamespace(num_shapes=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for width in range(4):
            guard.meet(batch((2, width), (2, 4)))
    with pytest.warns(UserWarning, match="compiles a program"):
        guard.meet(batch((2, 9), (2, 4)))


def test_jit_compile_is_off_unless_asked_for():
    assert small_model().jit_compile is (keras.backend.backend() == "jax")
    assert small_model(jit_compile=True).jit_compile is True
    # Saved as given, since a model may be loaded on another backend.
    assert small_model().get_compile_config()["jit_compile"] == "auto"


def warnings_of(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(warning.message) for warning in caught if "compiles" in str(warning.message)]


def train_and_count():
    """Fits and evaluates on few shapes, then on many; returns the shapes met and the warnings."""
    examples = sequences(64)
    model = small_model(jit_compile=True)
    met = {"train": [], "test": []}
    meet = CompileGuard.meet

    def spy(self, data):
        kind = "train" if self is model._train_guard else "test"
        met[kind].append(str(keras.tree.map_structure(lambda x: tuple(x.shape), data)))
        meet(self, data)

    CompileGuard.meet = spy
    train = kmm.data.mix({"copy": examples}, batch_size=8, lengths=2)
    held_out = kmm.data.batch(examples, "copy", 24, lengths=1)  # 24 + 24 + 16
    few = warnings_of(lambda: model.fit(train, validation_data=held_out, epochs=2, verbose=0))
    counts = {kind: (len(set(shapes)), len(shapes)) for kind, shapes in met.items()}
    many = kmm.data.batch(examples.take(12), "copy", 3, lengths="dynamic")
    warned = warnings_of(lambda: model.evaluate(many, verbose=0))
    CompileGuard.meet = meet
    return counts, few, warned


def check(counts, few, warned):
    # No more than `mix` announced, 2, and for evaluation a whole and a smaller last batch.
    assert counts["train"][0] == counts["test"][0] == 2
    assert few == []
    assert len(warned) == 1 and "`evaluate` compiles" in warned[0]
    if keras.backend.backend() == "jax":
        # There every call is a program that is compiled: none twice, none in the second epoch.
        assert counts["train"][0] == counts["train"][1] and counts["test"][0] == counts["test"][1]


@pytest.mark.slow
def test_few_programs():
    check(*train_and_count())
