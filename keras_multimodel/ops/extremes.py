"""The largest and smallest entries of rows."""

from keras import ops

from keras_multimodel.ops.compiled import compiles_with_xla, tensorflow_on_cpu


def row_max(x):
    """Returns the largest entry of the last axis, which stays as one of size 1."""
    return _folded(x, ops.maximum, ops.max)


def row_min(x):
    """Returns the smallest entry of the last axis, which stays as one of size 1."""
    return _folded(x, ops.minimum, ops.min)


def _folded(x, pairwise, reduce):
    """Lays the halves of rows on each other, again and again.

    XLA compiles that to vector instructions on CPUs, and a reduction to a chain of one comparison
    after the other, four to seven times as slow.
    """
    if not (compiles_with_xla() and tensorflow_on_cpu()):
        return reduce(x, axis=-1, keepdims=True)
    while x.shape[-1] > 1:
        half = (x.shape[-1] + 1) // 2
        x = pairwise(x[..., :half], x[..., -half:])  # in odd rows the middle meets itself
    return x
