"""Parts of rows that are left out at random, so that a model learns to do without them."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_multimodel.argument_checks import share
from keras_multimodel.typing import Tensor


class DropInputs:
    """Leaves out each part of a row with a probability, but never all that the row has.

    Args:
        rate: the probability, from 0 to 1, of every part, or one for each in the order of the
            task's `inputs`: 0 for those that are always there. Where it would leave nothing, one
            part that the row has is kept, each as likely.

    Call arguments:
        inputs: bool `(parts,)`, which parts a row has: `"given"` of a batch, one row of it.
        seed: two integers; the same seed drops the same parts.

    Returns:
        bool `(parts,)`.

    Raises:
        ValueError: `rate` is not from 0 to 1 or has not one number for each part, or `inputs` are
            not bool `(parts,)`.

    Example:

    >>> drop = kmm.data.DropInputs(rate=1.0)
    >>> int(drop([True, False, True], seed=(1, 2)).numpy().sum())
    1
    >>> drop = kmm.data.DropInputs([0.0, 1.0])
    >>> drop([True, True], seed=(1, 2)).numpy().tolist()
    [True, False]

    Reference:
        Neverova et al. 2016, arXiv 1501.00102, section 3.4 (ModDrop).
    """

    def __init__(self, rate: float | Sequence[float]):
        if isinstance(rate, Sequence | np.ndarray) and not isinstance(rate, str | bytes):
            self.rate = [share(f"rate[{i}]", one) for i, one in enumerate(rate)]
        else:
            self.rate = share("rate", rate)

    def __call__(self, inputs: Tensor, seed: Tensor) -> tf.Tensor:
        given = tf.convert_to_tensor(inputs)
        if given.dtype != tf.bool or given.shape.rank != 1:
            raise ValueError(
                "`inputs` must be bool (parts,). "
                f"Received: shape={given.shape}, dtype={given.dtype.name}"
            )
        if isinstance(self.rate, list) and given.shape[0] not in (None, len(self.rate)):
            raise ValueError(
                f"`rate` must have one number for each of {given.shape[0]} parts. "
                f"Received: rate={self.rate}"
            )
        draws = tf.random.stateless_uniform(tf.shape(given), seed)
        kept = given & (draws >= self.rate)
        # Of those that the row has, the one with the greatest draw for its rate: all are below.
        relative = tf.math.divide_no_nan(draws, self.rate)
        best = tf.argmax(tf.where(given, relative, -1.0), output_type=tf.int32)
        one = given & (tf.range(tf.size(given)) == best)
        return tf.where(tf.reduce_any(kept), kept, one)
