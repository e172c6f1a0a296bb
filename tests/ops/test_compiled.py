import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.ops import compiled as programs


def compiled(function):
    """Returns the function as XLA compiles it, on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(programs, "_cores", lambda: 2)


def softmax_attention(queries, keys, values, count):
    scores = np.einsum("bnh,bnht->bnt", queries, keys)[..., :count].astype("float64")
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bnt,bnht->bnh", weights, values[..., :count])


@settings(deadline=None, max_examples=10)
@given(data=st.data(), length=st.sampled_from([4, 8, 12, 13]))
def test_attention_in_chunks_equals_a_softmax_over_what_is_written(data, length):
    index = data.draw(st.integers(0, length - 1))
    rng = np.random.default_rng(length)
    queries, keys, values = (
        3 * rng.normal(size=shape).astype("float32")
        for shape in ((2, 3, 5), (2, 3, 5, length), (2, 3, 5, length))
    )
    expected = softmax_attention(queries, keys, values, index + 1)
    for compile in (compiled, lambda function: function):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(programs, "_CHUNK", 4)
            arguments = (ops.convert_to_tensor(x) for x in (queries, keys, values))
            y = compile(programs.attend_to_prefix)(*arguments, ops.convert_to_tensor(index))
        np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=1e-4)


@pytest.mark.parametrize("count, cores, rows", [(16, 2, 8), (20, 2, 10), (15, 2, 15), (64, 5, 13)])
def test_how_a_batch_is_split(count, cores, rows, monkeypatch):
    monkeypatch.setattr(programs, "_cores", lambda: cores)
    assert programs.rows_per_thread(count) == rows


def test_an_error_of_a_thread_is_raised():
    done = []

    def fail():
        raise ValueError("in a thread")

    with pytest.raises(ValueError, match="in a thread"):
        programs.in_threads(lambda call: call(), [lambda: done.append(1), fail])
    assert done == [1]
