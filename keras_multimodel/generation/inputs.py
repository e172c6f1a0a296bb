"""From raw examples to batches whose shapes come from a small set, so that few are compiled."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_multimodel import user_warnings
from keras_multimodel.gaps import is_gap
from keras_multimodel.layers.modalities.modality_net import ModalityNet

_NUMBERS = "iufb"  # kinds of dtypes


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
        self.cut = getattr(net.preprocessor, "max_length", None)
        # Without its own limit, so that what it would cut off is seen.
        self.preprocessor = net.preprocessor if self.cut is None else net.preprocessor.unlimited()
        self.limit = limit
        masked = type(net).padding_mask is not ModalityNet.padding_mask
        self._buckets = [n is None and masked for n in net.example_shape]

    def as_list(self, raw: Any) -> list:
        """Returns a list of raw examples, at least one.

        Args:
            raw: a list or tuple; an array, tensor or pandas Series with one more axis than an
                example, the first; or one text or the bytes of one file, as a list of one.

        Raises:
            ValueError: it is something else, or has no example.
        """
        if isinstance(raw, str | bytes):
            raw = [raw]
        elif not isinstance(raw, list | tuple):
            raw = self._rows(raw)
        if not len(raw):
            raise ValueError(f"`{self.argument}` must hold at least one example. Received: {raw}")
        return list(raw)

    def _rows(self, raw):
        """Returns the rows of an array. It is not guessed whether an array is one example."""
        if not hasattr(raw, "__array__"):
            raise ValueError(
                f"`{self.argument}` must be a list of raw examples. Received: {type(raw).__name__}"
            )
        array = np.asarray(raw)
        rank = 1 + len(self.net.example_shape) if array.dtype.kind in _NUMBERS else 1
        if array.ndim != rank:
            raise ValueError(
                f"`{self.argument}` must be a list of raw examples, or an array of rank {rank} "
                f"whose first axis counts them. Received: shape={array.shape}; pass "
                f"[{self.argument}] if it is one example, list({self.argument}) if it is several"
            )
        return list(array)

    def __call__(self, raw: list) -> list[np.ndarray]:
        """Returns one array per example.

        Args:
            raw: raw examples.

        Raises:
            ValueError: one is empty, silent, too long, of the wrong kind, or has values that are
                not finite or not in the vocabulary.
        """
        return [self.encode_one(f"{self.argument}[{i}]", x) for i, x in enumerate(raw)]

    def batch(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Returns the arrays as one, padded with zeros and with copies of the first row."""
        sizes = [max(n) for n in zip(*(array.shape for array in arrays))]
        sizes = [bucket(n, 8) if wide else n for n, wide in zip(sizes, self._buckets)]
        batch = np.zeros((bucket(len(arrays)), *sizes), arrays[0].dtype)
        for i, array in enumerate(arrays):
            batch[(i, *(slice(size) for size in array.shape))] = array
        batch[len(arrays) :] = batch[0]
        return batch

    def encode_one(self, name: str, example: Any) -> np.ndarray:
        """Returns the array of one raw example, as a call does.

        Args:
            name: of the example, for messages.
            example: the raw example.

        Raises:
            ValueError: as for a call.
        """
        self._check_raw(name, example)
        try:
            # The form that `kmm.data.encode` uses: it refuses what nothing can be said about, such
            # as silence. A plain function as a preprocessor has no such form.
            strict = getattr(self.preprocessor, "strict", self.preprocessor)
            array = np.asarray(example if strict is None else strict(example))
        except Exception as error:  # TensorFlow's own errors among them, which are no ValueError
            raise ValueError(
                f"`{name}` must be a raw example as task {self.task!r} takes it: {error}"
            ) from error
        shape = self.net.example_shape
        fits = array.ndim == len(shape) and all(m in (None, n) for m, n in zip(shape, array.shape))
        if not fits or array.dtype.kind not in _NUMBERS:
            raise ValueError(
                f"`{name}` must become numbers of shape {shape}. "
                f"Received: shape={array.shape}, dtype={array.dtype}"
            )
        array = self._check_values(name, array)
        if self.limit is not None and array.ndim and array.shape[0] > self.limit:
            raise ValueError(
                f"`{self.argument}` of task {self.task!r} must have at most {self.limit} "
                f"positions. Received: {name} of length {array.shape[0]}"
            )
        if self.cut is not None and array.shape[0] > self.cut:
            user_warnings.warn(
                f"`{name}` has {array.shape[0]} positions and is cut to {self.cut}, the "
                f"`max_length` of the preprocessor of task {self.task!r}."
            )
            array = np.asarray(self.net.preprocessor(example)).astype(array.dtype)
        return array

    def _check_raw(self, name, example):
        """Checks an example before its preprocessor, which may clip what is infinite."""
        try:
            array = np.asarray(example)
        except (TypeError, ValueError):
            return  # no array, such as a ragged list: the preprocessor knows what it is
        if array.ndim == 0 and array.dtype.kind in "OSU":
            example = array.item()
        blank = isinstance(example, str | bytes) and not example.strip()
        is_vector = len(self.net.example_shape) == 1 and None not in self.net.example_shape
        if (blank or 0 in array.shape) and not is_vector:  # an empty set of labels is one
            raise ValueError(f"`{self.argument}` must not be empty. Received: {name}={example!r}")
        self._check_finite(name, array)

    def _check_values(self, name, array):
        """Returns an array of the dtype of the net, if it changes no value."""
        if 0 in array.shape:
            raise ValueError(f"`{self.argument}` must not be empty. Received: {name} of length 0")
        self._check_finite(name, array)
        with np.errstate(invalid="ignore"):
            result = array.astype(self.net.example_dtype)
        if result.dtype.kind not in "iu":
            return result
        if not np.array_equal(result, array):
            raise ValueError(
                f"`{name}` must be integers that fit in {result.dtype}. "
                f"Received: dtype={array.dtype}, from {array.min()} to {array.max()}"
            )
        size = self.net.num_ids
        if size is not None and not 0 <= array.min() <= array.max() < size:
            raise ValueError(
                f"`{name}` must be from 0 to {size - 1}. "
                f"Received: from {array.min()} to {array.max()}"
            )
        if array.ndim == 1 and not array.any():
            raise ValueError(f"`{name}` must hold more than padding. Received: {name}={array}")
        return result

    def _check_finite(self, name, array):
        if array.dtype.kind != "f":
            return
        if self.net.nan_is_gap:
            array = array[~np.isnan(array)]
        if not np.isfinite(array).all():
            raise ValueError(
                f"`{name}` must be finite numbers. Received: some that are NaN or infinite"
            )


class RowBatcher:
    """Turns raw rows, dicts from the parts of a task to raw examples, into batches.

    A part is missing in a row if the row has no such key, or None, NaN or nothing under it.

    Args:
        task: name of the task.
        argument: name of the rows in messages.
        nets: part -> the modality net that reads its arrays.
        limit: most positions of a part that is a sequence, or None.
    """

    def __init__(self, task: str, argument: str, nets: dict[str, ModalityNet], limit: int | None):
        self.task = task
        self.argument = argument
        self.parts = {}
        for part, net in nets.items():
            is_sequence = net.example_shape[:1] == (None,) and None not in net.example_shape[1:]
            self.parts[part] = RawBatcher(task, argument, net, limit if is_sequence else None)

    def as_list(self, raw: Any) -> list:
        """Returns a list of rows, at least one.

        Args:
            raw: a list of dicts, or a pandas DataFrame whose other columns are left out.

        Raises:
            ValueError: it is something else, or has no row.
        """
        if hasattr(raw, "columns") and hasattr(raw, "to_dict"):
            raw = raw[[part for part in self.parts if part in raw.columns]].to_dict("records")
        if not isinstance(raw, list | tuple):
            raise ValueError(
                f"`{self.argument}` of task {self.task!r} must be a list of dicts, or a DataFrame. "
                f"Received: {type(raw).__name__}"
            )
        if not len(raw):
            raise ValueError(f"`{self.argument}` must hold at least one example. Received: {raw}")
        return list(raw)

    def __call__(self, raw: list) -> list[dict[str, np.ndarray]]:
        """Returns for each row a dict from the parts that it has to their arrays.

        Args:
            raw: the rows.

        Raises:
            ValueError: a row is no dict, has an unknown part or none, or a part is a bad example,
                as for `RawBatcher`.
        """
        return [self._encode(i, row) for i, row in enumerate(raw)]

    def batch(self, arrays: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns an array for each part, zeros where it is missing, and the array `"given"`."""
        batch = {}
        for part, batcher in self.parts.items():
            shape = [size or 1 for size in batcher.net.example_shape]
            missing = np.zeros(shape, batcher.net.example_dtype)
            batch[part] = batcher.batch([row.get(part, missing) for row in arrays])
        given = np.array([[part in row for part in self.parts] for row in arrays])
        filled = np.repeat(given[:1], len(batch[part]) - len(given), axis=0)
        return {**batch, "given": np.concatenate([given, filled])}

    def _encode(self, i, row):
        name = f"{self.argument}[{i}]"
        if not isinstance(row, Mapping):
            raise ValueError(
                f"`{name}` of task {self.task!r} must be a dict with the keys {list(self.parts)}. "
                f"Received: {type(row).__name__}"
            )
        unknown = [part for part in row if part not in self.parts]
        if unknown:
            raise ValueError(
                f"`{name}` of task {self.task!r} must have keys among {list(self.parts)}. "
                f"Received: {unknown}"
            )
        given = {part: raw for part, raw in row.items() if not is_gap(raw)}
        if not given:
            raise ValueError(
                f"`{name}` of task {self.task!r} must have at least one of {list(self.parts)}. "
                f"Received: {name}={row!r}"
            )
        return {
            part: self.parts[part].encode_one(f"{name}[{part!r}]", raw)
            for part, raw in given.items()
        }


def input_batcher(task: Any) -> Any:
    """Returns what turns the raw inputs of a task into batches: a `RawBatcher` or a `RowBatcher`.

    Args:
        task: a `Task`.
    """
    make = RowBatcher if task.has_parts else RawBatcher
    return make(task.name, "inputs", task.inputs, task.max_input_length)


def shapes(batch: Any) -> tuple:
    """Returns the shapes of a batch, an array or a dict of arrays, as a key of programs."""
    if isinstance(batch, dict):
        return tuple((part, array.shape) for part, array in batch.items())
    return batch.shape


def num_rows(batch: Any) -> int:
    """Returns the rows of a batch, an array or a dict of arrays."""
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch)
