"""Batches in which a task has no row."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_multimodel")
class AtLeastOneRow(keras.layers.Layer):
    """Gives a batch without rows one row of zeros; leaves any other as it is.

    A step may train one task of many. The others have no rows then, on which convolutions of
    TensorFlow on CPU return wrong shapes.

    Call arguments:
        inputs: `(batch, ...)`.

    Returns:
        `(max(batch, 1), ...)`, and a boolean `(max(batch, 1), 1)`, False at the row that is added.
    """

    def __init__(self, **kwargs):
        # What passes is the user's own data, which keeps its dtype.
        super().__init__(**{"autocast": False, **kwargs})

    def call(self, inputs):
        size = ops.shape(inputs)[0]
        added = max(1 - size, 0) if isinstance(size, int) else ops.maximum(1 - size, 0)
        x = ops.pad(inputs, [[0, added]] + [[0, 0]] * (len(inputs.shape) - 1))
        real = ops.arange(ops.shape(x)[0])[:, None] < size
        return x, real

    def compute_output_spec(self, inputs):
        return (
            keras.KerasTensor(inputs.shape, dtype=inputs.dtype),
            keras.KerasTensor((inputs.shape[0], 1), dtype="bool"),
        )


@keras.saving.register_keras_serializable(package="keras_multimodel")
class RowsLike(keras.layers.Layer):
    """Takes away the row that `AtLeastOneRow` added.

    Call arguments:
        inputs: `(max(batch, 1), ...)`.
        like: `(batch, ...)`.

    Returns:
        `(batch, ...)`, the first rows of `inputs`.
    """

    supports_masking = True

    def call(self, inputs, like):
        return inputs[: ops.shape(like)[0]]

    def compute_mask(self, *args, **kwargs):
        return None

    def compute_output_spec(self, inputs, like):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)
