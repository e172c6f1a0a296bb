import numpy as np
import pytest
from keras import ops

from keras_multimodel.ops.top_k import stable_top_k


def test_the_lowest_index_wins_ties():
    values, indices = stable_top_k(ops.convert_to_tensor([[1.0, 3.0, 3.0, 1.0, 3.0]]), 4)
    np.testing.assert_array_equal(ops.convert_to_numpy(values), [[3.0, 3.0, 3.0, 1.0]])
    np.testing.assert_array_equal(ops.convert_to_numpy(indices), [[1, 2, 4, 0]])


@pytest.mark.parametrize("shape, k", [((0, 4), 2), ((2, 3, 0), 0)])
def test_of_nothing_there_is_nothing(shape, k):
    values, indices = stable_top_k(ops.zeros(shape), k)
    assert tuple(values.shape) == tuple(indices.shape) == (*shape[:-1], k)
