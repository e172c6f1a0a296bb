import numpy as np
from keras import ops

from keras_multimodel.ops.top_k import stable_top_k


def test_the_lowest_index_wins_ties():
    values, indices = stable_top_k(ops.convert_to_tensor([[1.0, 3.0, 3.0, 1.0, 3.0]]), 4)
    np.testing.assert_array_equal(ops.convert_to_numpy(values), [[3.0, 3.0, 3.0, 1.0]])
    np.testing.assert_array_equal(ops.convert_to_numpy(indices), [[1, 2, 4, 0]])
