import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.ops import columns
from keras_multimodel.ops.columns import in_columns, matmul_columns


@settings(max_examples=20)
@given(
    rows=st.integers(1, 20),
    inner=st.sampled_from([1, 7, 512]),
    outer=st.integers(1, 1500),
    on_cpu=st.booleans(),
)
def test_equals_one_product(rows, inner, outer, on_cpu):
    draw = np.random.default_rng(outer)
    x, matrix = (
        draw.normal(size=shape).astype("float32") for shape in ((rows, inner), (inner, outer))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "tensorflow_on_cpu", lambda: on_cpu)
        parts = in_columns(ops.convert_to_tensor(matrix), rows)
    assert len(parts) <= (32 if on_cpu and rows <= 16 else 1)
    y = ops.convert_to_numpy(matmul_columns(ops.convert_to_tensor(x), parts))
    np.testing.assert_allclose(y, x @ matrix, atol=1e-3)


def test_a_wide_matrix_has_parts(monkeypatch):
    monkeypatch.setattr(columns, "tensorflow_on_cpu", lambda: True)
    parts = in_columns(ops.zeros((512, 1000)), 8)
    assert [part.shape[1] for part in parts] == [128] * 7 + [104]
