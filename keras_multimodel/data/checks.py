"""Checks of data sets that are arguments of the functions of `keras_multimodel.data`."""

from typing import Any

import tensorflow as tf

_KEYS = {"inputs", "targets"}


def check_examples(argument: str, dataset: Any, optional: tuple[str, ...] = ()) -> None:
    """Checks that a data set holds examples, raw or encoded.

    Args:
        argument: its name, for messages.
        dataset: the data set.
        optional: keys that may stand beside `inputs` and `targets`.

    Raises:
        ValueError: it is not a data set, its elements are not dicts of these keys, or a value is
            ragged or sparse.
    """
    _check_dataset(argument, dataset)
    spec = dataset.element_spec
    if not isinstance(spec, dict) or set(spec) - set(optional) != _KEYS:
        received = sorted(spec) if isinstance(spec, dict) else spec
        expected = f"`{argument}` must have elements with the keys 'inputs' and 'targets'"
        raise ValueError(f"{expected}. Received: {received}")
    # `padded_batch` and `window` fail on these with messages about type specs.
    for key, value in spec.items():
        if isinstance(value, tf.RaggedTensorSpec | tf.SparseTensorSpec):
            raise ValueError(
                f"`{argument}` must hold dense tensors: `.map(dict)` makes rows of a ragged tensor "
                "dense, and others have `to_tensor` or `tf.sparse.to_dense`. "
                f"Received: {key}={value}"
            )


def check_encoded(argument: str, dataset: Any) -> None:
    """Checks that a data set holds encoded examples.

    Args:
        argument: its name, for messages.
        dataset: the data set.

    Raises:
        ValueError: it is not, or a value is not an array of numbers.
    """
    check_examples(argument, dataset)
    _check_arrays(argument, dataset.element_spec.values())


def check_steps(argument: str, dataset: Any, expected: str) -> None:
    """Checks that a data set holds steps `(x, y)`, as `mix` and `batch` return them.

    Args:
        argument: its name, for messages.
        dataset: the data set.
        expected: the elements that it must have, for the message.

    Raises:
        ValueError: it does not, or a value is not an array of numbers.
    """
    _check_dataset(argument, dataset)
    spec = dataset.element_spec
    if not _is_step(spec):
        raise ValueError(f"`{argument}` must have elements {expected}. Received: {spec}")
    _check_arrays(argument, tf.nest.flatten(spec))


def _is_step(spec):
    # A third item, weights of the examples, may follow.
    x, y = spec[:2] if isinstance(spec, tuple) and len(spec) > 1 else (None, None)
    if not isinstance(x, dict) or not isinstance(y, dict) or x.keys() != y.keys():
        return False
    return all(isinstance(part, dict) and "inputs" in part for part in x.values())


def _check_dataset(argument, dataset):
    if not isinstance(dataset, tf.data.Dataset):
        expected = f"`{argument}` must be a tf.data.Dataset"
        raise ValueError(f"{expected}. Received: {type(dataset).__name__}")


def _check_arrays(argument, specs):
    # Strings mean raw examples. Padding and batching would take them: the error would come from the
    # first layer of the model, and name neither the data set nor what was left out.
    for part in specs:
        if not isinstance(part, tf.TensorSpec) or part.dtype == tf.string:
            expected = f"`{argument}` must hold arrays: use `kmm.data.encode`"
            raise ValueError(f"{expected}. Received: {part}")
