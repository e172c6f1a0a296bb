"""What compiled programs keep, and what they read anew."""

import concurrent.futures
import functools
import gc
import itertools
import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from keras_nlp import samplers as keras_nlp_samplers

from keras_multimodel.generation import Constraint, caches, generate
from keras_multimodel.generation.loop import SamplingLoop
from keras_multimodel.layers import ConvBlock, TextModality
from keras_multimodel.ops import compiled as programs
from tests.generation.writers import INPUTS, NoEnd, build, build_ids
from tests.models.small_models import HIDDEN_DIM, set_weights

pytestmark = pytest.mark.slow

IDS = [np.array([3, 4, 5, 1]), np.array([7, 1]), np.array([6, 2, 6, 2, 1])]


def written(model, **arguments):
    return [x.tolist() for x in model.generate("copy", IDS, **arguments)]


class Only(Constraint):
    """Allows one id."""

    def __init__(self, allowed_id):
        self.allowed_id = allowed_id

    def initial_state(self, inputs):
        return ()

    def allowed(self, state, remaining):
        return ops.arange(9)[None] == self.allowed_id

    def advance(self, state, ids):
        return state


def test_weights_are_read_anew(tmp_path):
    model, other = build_ids(), build_ids()
    set_weights(other, seed=9)
    first, second = written(model), written(other)
    assert first != second
    other.save_weights(tmp_path / "other.weights.h5")
    model.load_weights(tmp_path / "other.weights.h5")
    assert written(model) == second
    model.compile(keras.optimizers.SGD(0.5))
    assert written(model) == second
    targets = np.array([[2, 3, 1], [4, 1, 0]])
    x = {"copy": {"inputs": targets, "targets": targets}}
    model.fit(x, {"copy": targets}, epochs=3, verbose=0)
    trained = written(model)
    assert trained != second
    assert trained == written(model, use_cache=False)
    assert trained == written(model.task_model("copy"))


@pytest.fixture
def no_xla(monkeypatch):
    """XLA would take seconds for each length."""
    monkeypatch.setattr(programs, "_XLA_FROM", 1000)


def ids_of(rows, length):
    return [np.full(length, 2 + row % 7) for row in range(rows)]


def num_graphs(model):
    """Returns how many graphs TensorFlow has traced for the task."""
    return model._generator("copy").traces


BUCKETS = list(itertools.product((1, 2, 3, 5), (3, 9, 17, 33)))  # rows, and length of inputs


@pytest.mark.parametrize("sampler", ["greedy", "random", "beam"])
def test_ever_new_shapes_need_few_programs(sampler, no_xla):
    """What 16 buckets write is what each of them writes alone, and 3 programs serve them."""
    arguments = {"sampler": sampler, "seed": 1}

    def outputs(model, rows, length):
        found = model.generate("copy", ids_of(rows, length), **arguments)
        return [x.tolist() for x in found]

    model = build_ids()
    expected = [outputs(model, *bucket) for bucket in BUCKETS]
    # The first bucket; any length of inputs; any rows and lengths.
    assert num_graphs(model) <= 3 * 3
    traces = num_graphs(model)
    assert [outputs(model, *bucket) for bucket in BUCKETS[::-1]] == expected[::-1]
    assert num_graphs(model) == traces and len(model._generator("copy")._programs) == 3
    assert [outputs(build_ids(), *bucket) for bucket in BUCKETS[::5]] == expected[::5]


def test_scores_and_classes_of_ever_new_shapes():
    model = build()
    for rows, length in BUCKETS:
        texts = ["a" * length] * rows
        scores = model.score("text", texts, texts)
        assert scores.shape == (rows,) and np.isfinite(scores).all()
        assert len(model.generate("digits", INPUTS["digits"][:1] * rows)) == rows
    traces = {name: model._generator(name).traces for name in ("text", "digits")}
    assert traces["text"] <= 3 and traces["digits"] <= 2
    np.testing.assert_allclose(scores, build().score("text", texts, texts), rtol=1e-5)


def test_few_programs_are_kept(monkeypatch, no_xla):
    monkeypatch.setattr(generate, "_MAX_PROGRAMS", 4)
    model = build_ids()
    first = written(model, max_length=3)
    for length in (20, 40, 70, 140):
        model.generate("copy", IDS, max_length=length)
    assert len(model._generator("copy")._programs) == 4
    assert written(model, max_length=3) == first


@keras.saving.register_keras_serializable(package="tests")
class Static(ConvBlock):
    """Needs to know how many rows there are."""

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        int(source.shape[0])
        return super().initial_cache(batch_size, max_length, source, source_mask)

    def call(self, inputs, mask=None, training=None):
        return super().call(inputs, mask=mask, training=training)

    def step(self, inputs, cache, index):
        return super().step(inputs, cache, index)


def test_a_block_that_needs_sizes(no_xla):
    def make():
        return build_ids(conv_block=Static(HIDDEN_DIM, (3, 3), dropout=0.0))

    def outputs(model, rows):
        return [x.tolist() for x in model.generate("copy", ids_of(rows, 3))]

    model, rows = make(), (1, 2, 4, 8, 1, 8)
    assert [outputs(model, n) for n in rows] == [outputs(make(), n) for n in rows]


def test_xla_compiles_few_programs_which_are_kept(monkeypatch):
    """What TensorFlow compiled with XLA it keeps: to forget a program and make it anew adds up."""
    made = []

    def compiled(function, variables, xla=False, any_shapes=False):
        made.append((xla, any_shapes))
        return object()

    monkeypatch.setattr(generate, "compiled", compiled)
    monkeypatch.setattr(generate, "_MAX_PROGRAMS", 1)
    monkeypatch.setattr(programs, "_claims", iter(range(2)))
    generator = build_ids()._generator("copy")
    found = [generator.program((key,), (), len, xla=True) for key in "abcdac"]
    assert made == [(True, False), (True, False), (False, True), (False, True), (False, True)]
    assert found[4] is found[0] and found[5] is not found[2]


def test_a_constraint_is_never_taken_for_an_earlier_one(monkeypatch):
    monkeypatch.setattr(generate, "_MAX_PROGRAMS", 2)
    model = build_ids()
    for allowed_id in (2, 3, 4, 5):
        outputs = written(model, max_length=2, constraint=Only(allowed_id))
        assert outputs == [[allowed_id] * 2] * 3
        gc.collect()  # the next constraint may lie where this one did


@functools.cache
def in_graph(sampler):
    return written(build_ids(), sampler=sampler, seed=1)


@pytest.mark.parametrize("sampler", ["greedy", "top_p", "beam"])
def test_xla_writes_what_a_graph_writes(sampler, monkeypatch):
    expected = in_graph(sampler)
    monkeypatch.setattr(programs, "_XLA_FROM", 1)
    assert written(build_ids(), sampler=sampler, seed=1) == expected


class NotForXla(Only):
    """Leaves the graph at every step."""

    def allowed(self, state, remaining):
        allowed = tf.numpy_function(lambda: np.arange(9)[None] == self.allowed_id, [], tf.bool)
        return tf.ensure_shape(allowed, (1, 9))


def test_what_xla_cannot_compile_runs_without(monkeypatch):
    monkeypatch.setattr(programs, "_XLA_FROM", 1)
    model, constraint = build_ids(), NotForXla(5)
    for _ in range(2):
        assert written(model, max_length=2, constraint=constraint) == [[5, 5]] * 3
    traces = model._generator("copy").traces
    written(model, max_length=2, constraint=constraint)
    assert model._generator("copy").traces == traces


@functools.cache
def without_cache(sampler):
    """Returns arguments for outputs of 20 ids, and these as they are written without a cache."""
    arguments = {"sampler": sampler, "seed": 1, "max_length": 20, "constraint": NoEnd()}
    return arguments, written(build_ids(), use_cache=False, **arguments)


@pytest.mark.parametrize("sampler", ["greedy", "random", "beam"])
@pytest.mark.parametrize("xla_from", [1, 64])
def test_a_long_cache_writes_the_same(sampler, xla_from, monkeypatch):
    arguments, recomputed = without_cache(sampler)
    assert len(recomputed[0]) == 20
    monkeypatch.setattr(programs, "_XLA_FROM", xla_from)
    monkeypatch.setattr(programs, "_CHUNK", 4)
    monkeypatch.setattr(programs, "_cores", lambda: 2)
    model = build_ids()
    assert written(model, **arguments) == recomputed
    traces = model._generator("copy").traces
    assert written(model, **arguments) == recomputed
    assert model._generator("copy").traces == traces
    if sampler != "beam":
        steps = [*model.generate("copy", IDS, stream=True, **arguments)]
        assert [np.concatenate(row).tolist() for row in zip(*steps)] == recomputed


@pytest.mark.parametrize("sampler", ["greedy", "random", "beam"])
def test_a_batch_in_threads_writes_the_same(sampler, monkeypatch):
    """Three inputs are written as 2 and 1, in buckets of 2 rows and of 1."""
    whole = in_graph(sampler)
    monkeypatch.setattr(programs, "_XLA_FROM", 1)
    monkeypatch.setattr(programs, "_MIN_ROWS", 1)
    monkeypatch.setattr(programs, "_cores", lambda: 2)
    pools = []
    monkeypatch.setattr(
        programs,
        "ThreadPoolExecutor",
        lambda n: pools.append(n) or concurrent.futures.ThreadPoolExecutor(n),
    )
    threads = []
    original = SamplingLoop.advance

    def advance(*args):
        threads.append(threading.current_thread())
        return original(*args)

    monkeypatch.setattr(SamplingLoop, "advance", advance)
    model = build_ids()
    assert written(model, sampler=sampler, seed=1) == whole and pools == [2]
    assert threads == [threading.main_thread()] * 2  # traced once for each bucket
    traces = model._generator("copy").traces
    assert written(model, sampler=sampler, seed=1) == whole
    assert model._generator("copy").traces == traces


class Last(keras_nlp_samplers.Sampler):
    """Takes the last id of all. It compares, and so has no hash."""

    def __eq__(self, other):
        return True

    def get_next_token(self, probabilities):
        return ops.full_like(probabilities[:, 0], probabilities.shape[-1] - 1, dtype="int32")


def test_a_sampler_without_a_hash():
    assert written(build_ids(), sampler=Last(), max_length=2) == [[8, 8]] * 3


@pytest.mark.parametrize("sampler", [Last, np.array(["greedy"]), {"name": "greedy"}, None])
def test_what_is_no_sampler(sampler):
    with pytest.raises(ValueError, match="`sampler` must be one of .* Received: sampler="):
        build_ids().generate("copy", IDS, sampler)


def test_threads():
    model = build_ids()
    calls = [{"seed": n % 2, "sampler": ("random", "greedy", "beam")[n % 3]} for n in range(9)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda arguments: written(model, **arguments), calls))
    assert found == [written(model, **arguments) for arguments in calls]


def test_a_stream_knows_what_ended():
    model = build_ids()
    stream = model.generate("copy", IDS, max_length=3, constraint=Only(4), stream=True)
    assert stream.ended == [False] * 3
    assert len(list(stream)) == 3 and stream.ended == [False] * 3
    stream = model.generate("copy", IDS, constraint=Only(1), stream=True)
    assert len(list(stream)) == 1 and stream.ended == [True] * 3


@keras.saving.register_keras_serializable(package="tests")
class Doubled(ConvBlock):
    """Inherits steps that do not do what its `call` does."""

    def call(self, inputs, mask=None, training=None):
        return 2.0 * super().call(inputs, mask=mask, training=training)


@keras.saving.register_keras_serializable(package="tests")
class Turned(TextModality):
    """The same of a modality net."""

    def decode(self, inputs, mask=None, like=None):
        return -super().decode(inputs, mask=mask, like=like)


def test_inherited_steps_are_not_used_for_another_call():
    caches._warned.clear()
    with pytest.warns(UserWarning, match="`Doubled` has no `initial_cache` and `step` of its own"):
        model = build_ids(conv_block=Doubled(HIDDEN_DIM, (3, 3), dropout=0.0))
        assert written(model) == written(model, use_cache=False)
    model = build_ids(text=Turned)
    assert written(model) == written(model, use_cache=False) != written(build_ids())


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_dtype_policies(dtype):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = build()
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for task, inputs in INPUTS.items():
                outputs = model.generate(task, inputs)
                assert len(outputs) == 3
                again = model.generate(task, inputs[::-1])
                assert list(again[::-1]) == list(outputs)
            assert len(set(model.generate("text", INPUTS["text"]))) == 3
            beams = model.generate("parse", INPUTS["parse"], "beam").hypotheses
            assert all(np.isfinite(h.score) for hypotheses in beams for h in hypotheses)
    finally:
        keras.config.set_dtype_policy(before)


def test_within_the_scope_of_a_strategy(strategy):
    with strategy.scope():
        model = build_ids()
        inside = written(model)
    assert inside == written(model) == written(build_ids())
    assert inside == written(model, use_cache=False)
