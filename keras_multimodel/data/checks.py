"""What the functions of this package check of their arguments."""

import tensorflow as tf

_KEYS = {"inputs", "targets"}


def check_elements(argument: str, dataset: tf.data.Dataset) -> None:
    """Raises a ValueError unless `dataset` has elements `{"inputs": ..., "targets": ...}`."""
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            f"`{argument}` must be a tf.data.Dataset. Received: {type(dataset).__name__}"
        )
    spec = dataset.element_spec
    if not isinstance(spec, dict) or set(spec) != _KEYS:
        received = sorted(spec) if isinstance(spec, dict) else spec
        raise ValueError(
            f"`{argument}` must have elements with the keys 'inputs' and 'targets'. "
            f"Received: {received}"
        )
