"""Decoding of text: single strings, sentences to train on, and the lines of files.

All bytes that mean text become strings here, so that every reader knows the same encodings and line
ends, and every byte that is not text is a bad example with one reason.
"""

import codecs
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_multimodel.data.encoding.bad_examples import BadExampleError
from keras_multimodel.regular_files import open_regular

NOT_UTF8 = "not UTF-8"
UNREADABLE = "unreadable file"
MAX_LINE = 1 << 20  # characters of a line: hundreds of pages
_SHOWN = 40  # of a line that is not kept
# UTF-32 first: its little-endian mark starts with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Line(NamedTuple):
    """A line of a text file.

    Attributes:
        number: its number, from 1.
        text: the line without its end, with U+FFFD for what cannot be decoded.
        problem: `"reason: message"` if it cannot be decoded or is too long, else empty.
    """

    number: int
    text: str
    problem: str


def as_string(raw: Any) -> tf.Tensor:
    """Returns one string as a tensor.

    Args:
        raw: a string, bytes, or a NumPy array or tensor of rank 0 that holds either.

    Raises:
        ValueError: `raw` is anything else.
    """
    if isinstance(raw, np.ndarray):
        raw = raw.item() if raw.ndim == 0 else raw.tolist()
    is_text = raw.dtype == tf.string if tf.is_tensor(raw) else isinstance(raw, str | bytes)
    if not is_text or (tf.is_tensor(raw) and raw.shape.rank not in (0, None)):
        raise ValueError(f"`raw` must be one string. Received: raw={raw!r}")
    return tf.convert_to_tensor(raw, tf.string)


def decode_utf8(argument: str, content: bytes | str) -> str:
    """Decodes a string that must be UTF-8.

    Args:
        argument: its name, for the message.
        content: the bytes, or a string, which is checked for lone surrogates.

    Raises:
        BadExampleError: `content` is not UTF-8.
    """
    try:
        if isinstance(content, str):
            content.encode("utf-8")
            return content
        return content.decode("utf-8")
    except UnicodeError as error:
        message = f"`{argument}` must be UTF-8. Received: {content[:40]!r}, {error}"
        raise BadExampleError(NOT_UTF8, message) from None


def read_strings(argument: str, strings: Iterable[str | bytes] | tf.data.Dataset) -> list[str]:
    """Reads the strings that a vocabulary is trained on.

    Args:
        argument: their name, for messages.
        strings: strings or bytes, or a `tf.data.Dataset` of strings.

    Returns:
        The strings, blank ones included.

    Raises:
        ValueError: `strings` is a single string, or an element is no string or is not UTF-8. The
            message has the number of the element, from 0.
    """
    if isinstance(strings, str | bytes):
        expected = f"`{argument}` must be several strings, not one"
        raise ValueError(f"{expected}. Received: {argument}={strings[:40]!r}")
    read = getattr(strings, "as_numpy_iterator", None)  # of a data set
    elements = strings if read is None else read()
    texts = []
    for number, text in enumerate(elements):
        if not isinstance(text, str | bytes):
            raise ValueError(f"`{argument}` must hold strings. Received: {text!r}")
        texts.append(decode_utf8(f"{argument}[{number}]", text))
    return texts


def read_lines(path: str | Path, max_line: int = MAX_LINE) -> Iterator[Line]:
    r"""Reads the lines of a text file lazily.

    The file is UTF-8, or starts with the byte-order mark of UTF-16 or UTF-32. `"\n"`, `"\r"` and
    `"\r\n"` end a line. A line that cannot be decoded or is too long does not end the reading. Of a
    line that is too long only the beginning is kept. A file that cannot be read is a line with a
    problem.

    Args:
        path: the file.
        max_line: the most characters of a line.

    Yields:
        Line: the lines in order, blank ones included.
    """
    number = 0
    try:
        with open_regular(path) as file:
            for number, line in enumerate(_decoded(file, max_line), start=1):
                yield line._replace(number=number)
    except (OSError, ValueError) as error:  # a ValueError: the path has a NUL character
        expected = "a file must be readable"
        yield Line(number + 1, "\ufffd", f"{UNREADABLE}: {expected}. Received: {path}, {error}")


def _decoded(file, max_line):
    head = file.read(4)
    file.seek(0)
    wide = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    # Neither handler raises, so that one bad byte costs its own line only: "surrogateescape" keeps
    # the byte, but cannot be used for wide encodings, whose code units need not be above 127.
    encoding, errors = (wide, "replace") if wide else ("utf-8", "surrogateescape")
    with io.TextIOWrapper(file, encoding, errors, newline=None) as lines:
        # By `readline` with a limit: a loop over the file would read a line of any length.
        while line := lines.readline(max_line + 1):
            text = line.removesuffix("\n")
            if len(text) > max_line:
                while line and not line.endswith("\n"):
                    line = lines.readline(max_line + 1)
                expected = f"a line must have at most {max_line} characters"
                text = text[:_SHOWN].encode("utf-8", "replace").decode()
                yield Line(0, text, f"too long: {expected}. Received: more, from {text!r}")
                continue
            # A mark may start any line: files with a mark are appended to others.
            yield _checked(text.removeprefix("\ufeff"), wide)


def _checked(text: str, wide: str | None) -> Line:
    if "\0" in text:
        received = "one with NUL characters, as UTF-16 without a byte-order mark has them"
        return Line(0, text, f"{NOT_UTF8}: a line must be text. Received: {received}")
    if wide:
        expected = f"a line must be {wide.upper()}. Received: {text[:_SHOWN]!r}"
        return Line(0, text, f"not {wide.upper()}: {expected}" if "\ufffd" in text else "")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        content = text.encode("utf-8", "surrogateescape")
        problem = f"{NOT_UTF8}: a line must be UTF-8. Received: {content[:_SHOWN]!r}"
        return Line(0, content.decode("utf-8", "replace"), problem)
    return Line(0, text, "")
