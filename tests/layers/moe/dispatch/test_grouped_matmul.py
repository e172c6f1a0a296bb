import importlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.moe.dispatch.grouped_matmul import blocked_layout, grouped_matmul

module = importlib.import_module("keras_multimodel.layers.moe.dispatch.grouped_matmul")

few = settings(deadline=None, max_examples=10)
sizes_of_groups = st.lists(st.integers(0, 7), min_size=1, max_size=6)


def example(sizes, rest, width=8):
    """Rows of each group, `rest` rows of none, a matrix for each group, and the products."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(sum(sizes) + rest, width)).astype("float32")
    kernel = draw.normal(size=(len(sizes), width, 4)).astype("float32")
    groups = np.repeat(np.arange(len(sizes)), sizes)
    y = np.zeros((len(x), 4), "float32")
    for row, group in enumerate(groups):
        y[row] = x[row] @ kernel[group]
    return x, kernel, np.array(sizes, "int32"), y


@few
@given(sizes=sizes_of_groups, rest=st.integers(0, 3), width=st.sampled_from([3, 8]))
def test_every_row_meets_the_matrix_of_its_group(sizes, rest, width):
    x, kernel, sizes, expected = example(sizes, rest, width)
    y = grouped_matmul(*[ops.convert_to_tensor(a) for a in (x, kernel, sizes)])
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=1e-5)


@few
@given(sizes=sizes_of_groups, rest=st.integers(0, 3))
def test_blocks_give_the_same(sizes, rest):
    x, kernel, sizes, expected = example(sizes, rest)
    groups = np.repeat(np.arange(len(sizes) + 1), [*sizes, rest]).astype("int32")
    y = module._blocked(*[ops.convert_to_tensor(a) for a in (x, kernel, groups)])
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=1e-5)


@few
@given(groups=st.lists(st.integers(0, 4), max_size=40))
def test_blocks_hold_every_row_once_and_are_no_more_than_rows_or_twice_the_groups(groups):
    rows = len(groups)
    groups = np.array(groups, "int32")
    layout = blocked_layout(ops.convert_to_tensor(groups), 4)
    block = int(layout.block_size)
    row_of_slot, slot_of_row, group_of_block = (
        ops.convert_to_numpy(a)
        for a in (layout.row_of_slot, layout.slot_of_row, layout.group_of_block)
    )
    assert len(group_of_block) <= min(rows, 8) and len(row_of_slot) == len(group_of_block) * block
    for row in range(rows):
        slot = slot_of_row[row]
        if groups[row] == 4:
            assert slot == len(row_of_slot)
        else:
            assert row_of_slot[slot] == row and group_of_block[slot // block] == groups[row]
    assert np.sum(row_of_slot < rows) == np.sum(groups < 4)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="jax.lax.ragged_dot")
def test_ragged_dot_gives_the_same(monkeypatch):
    x, kernel, sizes, expected = example([3, 0, 5, 1], rest=2)
    monkeypatch.setattr(module, "use_blocks", lambda: False)
    y = grouped_matmul(*[ops.convert_to_tensor(a) for a in (x, kernel, sizes)])
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="grouped_mm of torch")
def test_the_loop_gives_the_same_as_the_grouped_product(monkeypatch):
    x, kernel, sizes, expected = example([3, 0, 5, 1], rest=2)
    monkeypatch.setattr(module, "_torch_has_grouped", lambda *_: False)
    y = grouped_matmul(*[ops.convert_to_tensor(a) for a in (x, kernel, sizes)])
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=1e-5)
