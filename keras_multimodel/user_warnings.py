"""Warnings that point at the line of the user's code that caused them.

A `stacklevel` counted by hand is right for one way of calling a function only, and Keras calls
callbacks. `skip_file_prefixes` of `warnings.warn` needs Python 3.12.
"""

import sys
import warnings
from types import FrameType

# Frames of these packages are never the user's. Code that AutoGraph has rewritten, the user's too,
# runs in modules whose files are gone by the time somebody reads the warning.
_LIBRARIES = ("keras_multimodel", "keras", "tensorflow", "jax", "torch", "contextlib")
_AUTOGRAPH = "__autograph_generated_file"


def users_line() -> tuple[str, int]:
    """Returns the file and the number of the innermost line on the stack outside of all libraries.

    The threads on which TensorFlow runs the Python functions of `tf.data` have no such line: the
    outermost frame stands for it. Code that warns there asks for the line beforehand.
    """
    frame = _users_frame(sys._getframe(1))
    return frame.f_code.co_filename, frame.f_lineno


def warn(message: str, line: tuple[str, int] | None = None) -> None:
    """Issues a `UserWarning`.

    Args:
        message: the text of the warning.
        line: file and number of the line that the warning points at, from `users_line`; by default
            the line of the user that is running.
    """
    registry = None
    if line is None:
        frame = _users_frame(sys._getframe(1))
        line = frame.f_code.co_filename, frame.f_lineno
        # Python notes in this registry what it has shown, so that a line does not warn twice.
        registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, UserWarning, *line, registry=registry)


def _users_frame(frame: FrameType) -> FrameType:
    while _is_of_a_library(frame.f_globals.get("__name__", "")) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_of_a_library(module):
    return module.partition(".")[0] in _LIBRARIES or module.startswith(_AUTOGRAPH)
