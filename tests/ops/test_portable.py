"""What is traced for other runtimes computes the same with other operations."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.layers.moe.dispatch.sparse_feed_forward import sparse_feed_forward
from keras_multimodel.layers.stepping import write_position
from keras_multimodel.ops.portable import traced_for, with_plain_shapes, without_xla
from tests.references import array


def test_contexts():
    assert not without_xla() and not with_plain_shapes()
    with traced_for("tensorflow"):
        assert without_xla() and not with_plain_shapes()
        with traced_for("other"):
            assert without_xla() and with_plain_shapes()
        assert not with_plain_shapes()
    assert not without_xla()


@pytest.mark.parametrize("axis", [1, 3])
def test_a_position_is_written(axis):
    rng = np.random.default_rng(0)
    buffer = rng.normal(size=(2, 5, 3, 5)).astype("float32")
    values = np.delete(buffer, [1, 2, 3, 4], axis=axis).squeeze(axis) + 1
    expected = buffer.copy()
    expected[(slice(None),) * axis + (3,)] = values
    index = ops.convert_to_tensor(3, "int32")
    with traced_for("tensorflow"):
        found = write_position(ops.convert_to_tensor(buffer), values, index, axis)
    np.testing.assert_array_equal(array(found), expected)


@pytest.mark.parametrize("kernels", [2, 3])
def test_every_expert_reads_every_token_and_those_that_were_chosen_count(kernels):
    rng = np.random.default_rng(0)
    tokens, experts, gates = rng.normal(size=(4, 3)), rng.integers(0, 4, (4, 2)), rng.random((4, 2))
    experts[1, 0] = 3  # an empty place
    shapes = [(3, 3, 5)] * (kernels - 1) + [(3, 5, 3)]
    values = [rng.normal(size=shape) for shape in shapes]
    values[0][2] = np.nan  # of no consequence to tokens that did not choose expert 2

    def expert(x, e):
        hidden = np.maximum(x @ values[-2][e], 0)
        return (hidden * (x @ values[0][e]) if kernels == 3 else hidden) @ values[-1][e]

    expected = np.zeros((4, 3))
    for token, places in enumerate(experts):
        for place, e in enumerate(places):
            if e < 3:
                expected[token] += gates[token, place] * expert(tokens[token], e)
    tensors = [ops.convert_to_tensor(x, "float32") for x in (tokens, gates, *values)]
    with traced_for("other"):
        found = sparse_feed_forward(
            tensors[0],
            ops.convert_to_tensor(experts, "int32"),
            tensors[1],
            tensors[2:],
            keras.activations.relu,
        )
    np.testing.assert_allclose(array(found), expected, atol=1e-5)
