"""Raw inputs in, raw outputs out: greedy, by recomputation of the whole prefix."""

import numpy as np

_PADDING, _END = 0, 1


class TaskGenerator:
    """Generates for one task.

    Args:
        task: the task.
        read: model from a batch of inputs to class logits, or for a task that writes to `{"encoded", "mask"}`.
        write: model from `{"targets", "encoded", "mask"}` to logits `(batch, length, vocabulary_size)`; None for classes.
    """

    def __init__(self, task, read, write=None):
        self.task = task
        self.read = read
        self.write = write

    def __call__(self, inputs: list, max_length: int | None = None) -> list:
        batch = self._encode(inputs)
        read = self.read.predict_on_batch(batch)
        if self.write is None:
            predictions = np.argmax(read, axis=-1)
        else:
            predictions = self._greedy(read, self._limit(max_length))
        preprocessor = self.task.targets.preprocessor
        if preprocessor is None:
            return list(predictions)
        return [preprocessor.decode(ids, raw) for ids, raw in zip(predictions, inputs)]

    def _limit(self, max_length):
        limit = self.task.max_target_length if max_length is None else max_length
        if limit < 1:
            raise ValueError(f"`max_length` must be positive. Received: max_length={max_length}")
        return limit

    def _greedy(self, read, max_length: int):
        """Returns ids `(batch, length)`: everything up to each row's end, then padding."""
        batch_size = read["encoded"].shape[0]
        # Ids not yet written are any but padding: no output looks at them.
        ids = np.full((batch_size, max_length), _END, "int32")
        ended = np.zeros(batch_size, "bool")
        for t in range(max_length):
            logits = self.write.predict_on_batch({"targets": ids, **read})[:, t]
            logits[:, _PADDING] = -np.inf
            ids[:, t] = np.where(ended, _PADDING, np.argmax(logits, axis=-1))
            ended |= ids[:, t] == _END
            if ended.all():
                break
            ids[:, t] = np.where(ended & (ids[:, t] == _PADDING), _END, ids[:, t])
        return _cut(ids)

    def _encode(self, inputs):
        if not isinstance(inputs, (list, tuple)):
            raise ValueError(
                f"`inputs` must be a list of raw inputs. Received: {type(inputs).__name__}"
            )
        if not inputs:
            raise ValueError(f"`inputs` must hold at least one input. Received: inputs={inputs}")
        preprocessor = self.task.inputs.preprocessor
        arrays = [np.asarray(x if preprocessor is None else preprocessor(x)) for x in inputs]
        for i, array in enumerate(arrays):
            self._check_length(i, array)
        return _pad(arrays)

    def _check_length(self, i, array):
        limit = self.task.max_input_length
        if array.ndim and array.shape[0] == 0:
            raise ValueError(f"`inputs` must not be empty. Received: inputs[{i}] of length 0")
        if limit is not None and array.ndim and array.shape[0] > limit:
            raise ValueError(
                f"`inputs` of task {self.task.name!r} must have at most {limit} positions. "
                f"Received: inputs[{i}] of length {array.shape[0]}"
            )


def _pad(arrays):
    """Returns arrays that differ in length at most as one batch, padded with zeros."""
    longest = [max(sizes) for sizes in zip(*(array.shape for array in arrays))]
    batch = np.zeros((len(arrays), *longest), arrays[0].dtype)
    for row, array in zip(batch, arrays):
        row[tuple(slice(size) for size in array.shape)] = array
    return batch


def _cut(ids):
    """Returns `ids` with padding after each row's first end."""
    after_end = np.cumsum(ids == _END, axis=1) - (ids == _END) > 0
    return np.where(after_end, _PADDING, ids)
