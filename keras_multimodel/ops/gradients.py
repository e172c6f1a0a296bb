"""Functions with a gradient of their own, which only training needs."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

from keras import ops

_forward_only: contextvars.ContextVar[bool] = contextvars.ContextVar("forward_only", default=False)


def custom_gradient(function: Callable) -> Callable:
    """Returns a function with a gradient of its own, as `keras.ops.custom_gradient` does.

    Within `forward_only` it has no gradient: TensorFlow keeps each gradient function that it traces
    as long as the process runs, and with it the whole graph that was traced around it.

    Args:
        function: returns its output and the function of its gradient.
    """
    differentiable = ops.custom_gradient(function)

    def call(*args):
        return function(*args)[0] if _forward_only.get() else differentiable(*args)

    return call


@contextlib.contextmanager
def forward_only() -> Iterator[None]:
    """A context in which nothing that is traced will be differentiated."""
    token = _forward_only.set(True)
    try:
        yield
    finally:
        _forward_only.reset(token)
