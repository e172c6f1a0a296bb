import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.moe.dispatch import sorted_rows
from keras_multimodel.layers.moe.dispatch.sorted_rows import grouped_matmul

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow splits groups of variable size"
)
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


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="grouped_mm of torch")
def test_the_loop_gives_the_same_as_the_grouped_product(monkeypatch):
    x, kernel, sizes, expected = example([3, 0, 5, 1], rest=2)
    monkeypatch.setattr(sorted_rows, "_torch_has_grouped", lambda *_: False)
    y = grouped_matmul(*[ops.convert_to_tensor(a) for a in (x, kernel, sizes)])
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=1e-5)
