"""Whether a program that is traced will run elsewhere, in a runtime that has fewer operations."""

import contextlib
import contextvars
from collections.abc import Iterator

_runtime: contextvars.ContextVar[str | None] = contextvars.ContextVar("runtime", default=None)


@contextlib.contextmanager
def traced_for(runtime: str) -> Iterator[None]:
    """A context in which programs are traced for another process.

    Args:
        runtime: `"tensorflow"`, where what runs is the operations of its core, and not those that
            XLA compiles, which TensorFlow Serving lacks; or `"other"`, where shapes must not depend
            on values either, as in LiteRT and ONNX Runtime.
    """
    token = _runtime.set(runtime)
    try:
        yield
    finally:
        _runtime.reset(token)


def without_xla() -> bool:
    """Returns whether operations of XLA must not be part of what is traced."""
    return _runtime.get() is not None


def with_plain_shapes() -> bool:
    """Returns whether no shape may depend on values in what is traced."""
    return _runtime.get() == "other"
