"""Checks of data sets that are arguments of the functions of `keras_multimodel.data`."""

from typing import Any

import keras
import tensorflow as tf

_KEYS = {"inputs", "targets"}
TARGETS_OF = "targets."  # in front of the name of a task, where several read the same rows


def is_target(key: str) -> bool:
    """Returns whether a key of an encoded example holds targets: of its one task, or of one."""
    return key == "targets" or key.startswith(TARGETS_OF)


def check_examples(
    argument: str, dataset: Any, optional: tuple[str, ...] = (), hint: str = ""
) -> None:
    """Checks that a data set holds raw examples, or encoded ones of a single input.

    Args:
        argument: its name, for messages.
        dataset: the data set.
        optional: keys that may stand beside `inputs` and `targets`.
        hint: what to do if others do, for the message.

    Raises:
        ValueError: it is not a data set, its elements are not dicts of these keys, or a value is
            ragged or sparse.
    """
    _check_dataset(argument, dataset)
    spec = dataset.element_spec
    if not isinstance(spec, dict) or set(spec) - set(optional) != _KEYS:
        received = sorted(spec) if isinstance(spec, dict) else spec
        expected = f"`{argument}` must have elements with the keys 'inputs' and 'targets'{hint}"
        raise ValueError(f"{expected}. Received: {received}")
    _check_dense(argument, spec)


def _check_dense(argument, spec):
    # `padded_batch` and `window` fail on these with messages about type specs.
    parts = {path[-1]: value for path, value in keras.tree.flatten_with_path(spec)}
    for key, value in parts.items():
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
    _check_dataset(argument, dataset)
    spec = dataset.element_spec
    of_rows = isinstance(spec, dict) and ("given" in spec or any(TARGETS_OF in k for k in spec))
    if of_rows and any(map(is_target, spec)):
        _check_dense(argument, spec)
    else:
        # What readers have beside them, such as `source`, ends with encoding.
        raw = isinstance(spec, dict) and set(spec) > _KEYS
        check_examples(argument, dataset, hint=": use `kmm.data.encode`" if raw else "")
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
    if not isinstance(x, dict) or not isinstance(y, dict) or not x or not y:
        return False
    if not all(isinstance(part, dict) for part in x.values()):
        return False
    # What tasks on the same rows read has the name of the rows.
    names = {name for name, part in x.items() if "inputs" in part or "given" in part}
    return bool(names) and all(name in names or set(x[name]) == {"targets"} for name in x)


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
