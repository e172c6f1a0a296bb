"""Layers that bring the batches of several tasks to one pass of the body, and back."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_multimodel.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class PadEmptyBatch(keras.layers.Layer):
    """Adds one row of zeros to a batch without rows, and returns any other batch as it is.

    A step may train one task of many. The other tasks have no rows then, and TensorFlow's
    convolutions on CPU return wrong shapes for an empty batch.

    Call arguments:
        inputs: `(batch, ...)`.

    Returns:
        `(max(batch, 1), ...)`, and a boolean `(max(batch, 1), 1)`, False at the row that is added.
    """

    def __init__(self, **kwargs):
        # Inputs are the user's data, such as ids or pixels, which keep their dtype.
        super().__init__(**{"autocast": False, **kwargs})

    def call(self, inputs: Tensor):
        size = ops.shape(inputs)[0]
        # In a graph the size is a tensor.
        added = max(1 - size, 0) if isinstance(size, int) else ops.maximum(1 - size, 0)
        x = ops.pad(inputs, [[0, added]] + [[0, 0]] * (len(inputs.shape) - 1))
        real = ops.arange(ops.shape(x)[0])[:, None] < size
        return x, real

    def compute_output_spec(self, inputs):
        real = keras.KerasTensor((inputs.shape[0], 1), dtype="bool")
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype), real


@keras.saving.register_keras_serializable(package="keras_multimodel")
class UnpadEmptyBatch(keras.layers.Layer):
    """Removes the row that `PadEmptyBatch` added.

    Call arguments:
        inputs: `(max(batch, 1), ...)`.
        like: `(batch, ...)`.

    Returns:
        `(batch, ...)`, the first rows of `inputs`.
    """

    def call(self, inputs: Tensor, like: Tensor):
        return inputs[: ops.shape(like)[0]]

    def compute_mask(self, *args, **kwargs):
        return None  # losses find padding in the targets

    def compute_output_spec(self, inputs, like):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates `(batch_i, length_i, ...)` tensors along the batch, padded to the longest."""
    lengths = [ops.shape(x)[1] for x in tensors]
    static = all(isinstance(length, int) for length in lengths)
    longest = max(lengths) if static else ops.max(ops.stack(lengths))
    padded = [
        ops.pad(x, [[0, 0], [0, longest - length]] + [[0, 0]] * (len(x.shape) - 2))
        for x, length in zip(tensors, lengths)
    ]
    return ops.concatenate(padded, axis=0)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Group(keras.layers.Layer):
    """Concatenates the sequences of several tasks along the batch axis, padded to the longest.

    One pass of the body over tasks of similar length costs less, in tracing and in running, than
    one pass for each task.

    Call arguments:
        inputs: list of `(batch_i, length_i, hidden_dim)`.
        masks: list of boolean `(batch_i, length_i)`.

    Returns:
        `(sum of batch_i, longest length, hidden_dim)` and its mask.
    """

    def call(self, inputs: list[Tensor], masks: list[Tensor]):
        return join(inputs), join(masks)

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_spec(self, inputs, masks):
        lengths = [x.shape[1] for x in inputs]
        shape = (None, None if None in lengths else max(lengths), inputs[0].shape[-1])
        mask = keras.KerasTensor(shape[:2], dtype="bool")
        return keras.KerasTensor(shape, dtype=self.compute_dtype), mask


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Ungroup(keras.layers.Layer):
    """Splits a group into the sequences of its tasks.

    Call arguments:
        inputs: `(sum of batch_i, longest length, hidden_dim)`.
        like: list of the `(batch_i, length_i, ...)` tensors that were grouped.

    Returns:
        list of `(batch_i, length_i, hidden_dim)`.
    """

    def call(self, inputs: Tensor, like: list[Tensor]):
        results, start = [], 0
        for x in like:
            size, length = ops.shape(x)[0], ops.shape(x)[1]
            # Slices, since the sizes may be tensors, which `split` does not take.
            results.append(inputs[start : start + size, :length])
            start = start + size
        return results

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_spec(self, inputs, like):
        shapes = [(*x.shape[:2], inputs.shape[-1]) for x in like]
        return [keras.KerasTensor(shape, dtype=inputs.dtype) for shape in shapes]
