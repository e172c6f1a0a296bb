"""Reading of files whose names come from elsewhere: regular ones only, and no more than fits.

A name in a folder or a table may be that of a pipe, which waits for its other end, of a device,
which may never end, or of a file that is larger than the memory.
"""

import errno
import io
import os
import stat


def open_regular(path: str | bytes | os.PathLike) -> io.BufferedReader:
    """Opens a regular file for reading, through links too.

    Args:
        path: the file.

    Returns:
        The open file, in binary mode.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device, a socket or a directory.
    """
    # Looked at before it is opened: opening alone makes some devices act.
    _check(os.stat(path), path)
    # And once more: another file may have its name by now. Not to block is for pipes.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    file = os.fdopen(descriptor, "rb")
    try:
        _check(os.fstat(descriptor), path)
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | bytes | os.PathLike, max_bytes: int | None = None) -> bytes:
    """Reads a regular file.

    Args:
        path: the file.
        max_bytes: the most bytes that it may have; None for no limit.

    Returns:
        Its content.

    Raises:
        OSError: as for `open_regular`; with `errno.EFBIG` if the file is larger.
    """
    with open_regular(path) as file:
        if max_bytes is None:
            return file.read()
        # Not by the size in the directory alone: a file may grow, and those of `/proc` have none.
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > max_bytes else file.read(max_bytes + 1)
    if max(size, len(content)) > max_bytes:
        raise OSError(errno.EFBIG, f"more than {max_bytes} bytes", os.fspath(path))
    return content


def _check(status, path):
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
