"""Products of a few rows and a wide matrix, as the scores of a vocabulary are."""

from keras import ops

from keras_multimodel.ops.compiled import tensorflow_on_cpu

_MOST_ROWS = 16  # more rows gain from a second core what they lose to waiting for it
_LEAST_SIZE = 1 << 16  # entries of a part
_MOST_PARTS = 32


def in_columns(matrix, num_rows: int) -> list:
    """Splits a matrix for `matmul_columns`.

    On CPUs, TensorFlow and XLA copy a wide matrix at every product to another layout, and hand the
    product to a pool of threads, which is slow where several loops run side by side. Parts of some
    hundred columns are neither copied nor handed over.

    Args:
        matrix: `(in, out)`.
        num_rows: rows that it will be multiplied with at once.

    Returns:
        The columns in order, in one part or several, the last perhaps narrower.
    """
    if num_rows > _MOST_ROWS or not tensorflow_on_cpu():
        return [matrix]
    columns = matrix.shape[1]
    width = max(-(-_LEAST_SIZE // matrix.shape[0]), -(-columns // _MOST_PARTS))
    return [matrix[:, i : i + width] for i in range(0, columns, width)]


def matmul_columns(x, parts: list):
    """Returns `x` `(rows, in)` times the matrix that lies in `parts`, `(rows, out)`."""
    return ops.concatenate([ops.matmul(x, part) for part in parts], axis=-1)
