"""What the functions of this package check of their arguments."""

import tensorflow as tf

_KEYS = {"inputs", "targets"}


def check_elements(argument: str, dataset: tf.data.Dataset, optional: tuple[str, ...] = ()) -> None:
    """Checks the elements of a data set.

    Args:
        argument: its name, for messages.
        dataset: the data set.
        optional: keys that may stand beside `inputs` and `targets`.

    Raises:
        ValueError: it is none, or its elements are no dicts of these keys.
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            f"`{argument}` must be a tf.data.Dataset. Received: {type(dataset).__name__}"
        )
    spec = dataset.element_spec
    if not isinstance(spec, dict) or set(spec) - set(optional) != _KEYS:
        received = sorted(spec) if isinstance(spec, dict) else spec
        raise ValueError(
            f"`{argument}` must have elements with the keys 'inputs' and 'targets'. "
            f"Received: {received}"
        )


def check_choice(argument: str, value, choices: tuple[str, ...]) -> None:
    """Raises a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(choices)}. Received: {argument}={value!r}"
        )
