"""Files that callbacks write: they are checked before training, and whole or not there."""

import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Mapping

import numpy as np

_METADATA = "metadata"


def writable_directory(argument: str, directory: str | os.PathLike) -> pathlib.Path:
    """Creates a directory if needed, and checks that files can be written there.

    Callbacks call this before the first step: a bad path must not cost an epoch of training.

    Args:
        argument: name of the argument, for the message.
        directory: the directory.

    Returns:
        The directory as a path.

    Raises:
        ValueError: the path is empty, is not a path, or cannot be a directory with files in it.
    """
    try:
        if not os.fspath(directory):
            raise ValueError("an empty path")  # which would mean the current directory
        path = pathlib.Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        # Only a write tells: root passes every check of permissions, on a read-only disk too.
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable"):
            pass
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"`{argument}` must be a directory. Received: {argument}={directory!r}, where no file "
            f"can be written ({type(error).__name__}: {error})"
        ) from error
    return path


def write_state(path: pathlib.Path, metadata: dict, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a state. If the process dies meanwhile, the file that was there before remains.

    The state goes to `<name>.tmp` beside the file. Once it is on the disk, it takes the place of
    the file in one step of the file system. So `path` is at every moment the old state or the new
    one, whole. What a dead process leaves in `<name>.tmp` is never read; the next write replaces
    it.

    Args:
        path: the file.
        metadata: what JSON can hold.
        arrays: the arrays by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.tmp")
    text = np.frombuffer(json.dumps(metadata).encode(), "uint8")
    with open(written, "wb") as file:
        np.savez(file, **{_METADATA: text}, **arrays)
        file.flush()
        # Before the rename, which may reach the disk first: a power cut would leave an empty file.
        os.fsync(file.fileno())
    os.replace(written, path)
    if hasattr(os, "O_DIRECTORY"):  # POSIX: the new name is safe once the directory is on the disk
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read_state(path: pathlib.Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns metadata and arrays of a file that `write_state` wrote.

    Args:
        path: the file.

    Returns:
        metadata and arrays.

    Raises:
        ValueError: the file is something else, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop(_METADATA).tobytes()), arrays
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            "`directory` must hold a whole state of a training, or none: delete the file to begin "
            f"anew. Received: {path} ({type(error).__name__}: {error})"
        ) from error
