"""From raw examples to batches whose shapes come from a small set, so that few are compiled."""

from typing import Any

import numpy as np

from keras_multimodel import user_warnings
from keras_multimodel.layers.modalities.modality_net import ModalityNet


def bucket(size: int, smallest: int = 1) -> int:
    """Returns the least power of two that is at least `size` and `smallest`."""
    return max(smallest, 1 << (size - 1).bit_length())


class RawBatcher:
    """Turns the raw examples of one side of a task into batches.

    Args:
        task: name of the task.
        argument: name of the raw examples in messages.
        net: the modality net that reads the arrays.
        limit: most positions, or None. An example that is too long for the preprocessor only is
            cut, as it was for training, with a warning.
    """

    def __init__(self, task: str, argument: str, net: ModalityNet, limit: int | None):
        self.task = task
        self.argument = argument
        self.net = net
        self.preprocessor, self.cut = _without_limit(net.preprocessor)
        self.limit = limit
        masked = type(net).padding_mask is not ModalityNet.padding_mask
        self._buckets = [n is None and masked for n in net.example_shape]

    def check_list(self, raw: Any) -> None:
        """Checks that there is a list of at least one raw example.

        Args:
            raw: what was received.

        Raises:
            ValueError: it is no list, or an empty one.
        """
        if not isinstance(raw, list | tuple):
            raise ValueError(
                f"`{self.argument}` must be a list of raw examples. Received: {type(raw).__name__}"
            )
        if not raw:
            raise ValueError(f"`{self.argument}` must hold at least one example. Received: {raw}")

    def __call__(self, raw: list) -> list[np.ndarray]:
        """Returns one array per example.

        Args:
            raw: raw examples.

        Raises:
            ValueError: one is empty, too long or of the wrong kind.
        """
        return [self._encode(i, example) for i, example in enumerate(raw)]

    def batch(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Returns the arrays as one, padded with zeros and with copies of the first row."""
        sizes = [max(n) for n in zip(*(array.shape for array in arrays))]
        sizes = [bucket(n, 8) if wide else n for n, wide in zip(sizes, self._buckets)]
        batch = np.zeros((bucket(len(arrays)), *sizes), arrays[0].dtype)
        for i, array in enumerate(arrays):
            batch[(i, *(slice(size) for size in array.shape))] = array
        batch[len(arrays) :] = batch[0]
        return batch

    def _encode(self, i, example):
        name = f"{self.argument}[{i}]"
        if isinstance(example, str | bytes) and not example.strip():
            raise ValueError(f"`{self.argument}` must not be empty. Received: {name}={example!r}")
        try:
            array = np.asarray(example if self.preprocessor is None else self.preprocessor(example))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`{name}` must be a raw example as task {self.task!r} takes it: {error}"
            ) from error
        shape = self.net.example_shape
        fits = array.ndim == len(shape) and all(m in (None, n) for m, n in zip(shape, array.shape))
        if not fits or array.dtype.kind not in "iufb":
            raise ValueError(
                f"`{name}` must become numbers of shape {shape}. "
                f"Received: shape={array.shape}, dtype={array.dtype}"
            )
        if 0 in array.shape:
            raise ValueError(f"`{self.argument}` must not be empty. Received: {name} of length 0")
        if self.limit is not None and array.ndim and array.shape[0] > self.limit:
            raise ValueError(
                f"`{self.argument}` of task {self.task!r} must have at most {self.limit} "
                f"positions. Received: {name} of length {array.shape[0]}"
            )
        if self.cut is not None and array.shape[0] > self.cut:
            user_warnings.warn(
                f"`{name}` has {array.shape[0]} positions and is cut to {self.cut}, the "
                f"`max_length` of the preprocessor of task {self.task!r}.",
            )
            array = np.asarray(self.net.preprocessor(example))
        return array.astype(self.net.example_dtype)


def _without_limit(preprocessor):
    """Returns a preprocessor that cuts nothing off, and the length at which this one would."""
    limit = getattr(preprocessor, "max_length", None)
    if limit is None:
        return preprocessor, None
    return preprocessor.unlimited(), limit
