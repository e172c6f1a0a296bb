"""The error of a raw example that cannot be used."""

from collections.abc import Callable

import tensorflow as tf


class BadExampleError(ValueError):
    """A raw example cannot be used. Preprocessors raise it; `kmm.data.encode` counts by reason.

    Args:
        reason: what is wrong, in a few words that are the same for all such examples.
        message: what was expected and what was received.

    Example:

    ```python
    raise kmm.data.BadExampleError("no title", f"`raw` must have a title. Received: raw={raw!r}")
    ```
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def require(
    value: tf.Tensor, good, reason: str, explain: Callable[[], str], shown: tuple = ()
) -> tf.Tensor:
    """Returns a tensor that is there only if a condition holds.

    Args:
        value: the tensor.
        good: the condition, a bool scalar.
        reason: what is wrong if it does not hold.
        explain: function without arguments that returns the message; called eagerly only.
        shown: strings and tensors that a graph adds to the reason.

    Returns:
        `value`. In a graph, computing it raises `tf.errors.InvalidArgumentError` if it does not.

    Raises:
        BadExampleError: `good` is false, eagerly.
    """
    if tf.executing_eagerly():
        if not good:
            raise BadExampleError(reason, explain())
        return value
    with tf.control_dependencies([tf.debugging.Assert(good, [f"bad example: {reason}", *shown])]):
        return tf.identity(value)
