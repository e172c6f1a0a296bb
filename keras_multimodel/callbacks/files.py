"""Files that callbacks write: they are checked before training, and whole or not there."""

import contextlib
import io
import json
import os
import pathlib
import socket
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_multimodel import user_warnings

fcntl: Any = None
with contextlib.suppress(ImportError):  # not on Windows
    import fcntl

_METADATA = "metadata"


def writable_directory(
    argument: str, directory: str | os.PathLike, num_bytes: int = 0
) -> pathlib.Path:
    """Creates a directory if needed, and checks that files can be written there.

    Callbacks call this before the first step: a bad path must not cost an epoch of training.

    Args:
        argument: name of the argument, for the message.
        directory: the directory.
        num_bytes: how much room a file needs there.

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
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable") as file:
            if num_bytes and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
    except (OSError, TypeError, ValueError) as error:
        needed = f" of {num_bytes:,} bytes" if num_bytes else ""
        raise ValueError(
            f"`{argument}` must be a directory. Received: {argument}={directory!r}, where no file"
            f"{needed} can be written ({type(error).__name__}: {error})"
        ) from error
    return path


class DirectoryLock:
    """Keeps other processes from training in a directory.

    The operating system holds the lock, and drops it when the process ends, however it ends: what
    remains is a file without a lock. File systems without locks, and Windows, refuse nobody.

    Args:
        directory: the directory.
    """

    # Of this process: the system's lock is that of a process, and does not tell threads apart.
    _held: dict[str, "DirectoryLock"] = {}
    _guard = threading.Lock()

    def __init__(self, directory: pathlib.Path):
        self.path = directory / "lock"
        self._key = os.path.realpath(self.path)
        self._file: Any = None
        self._thread = threading.current_thread()

    def acquire(self) -> None:
        """Takes the lock.

        A training that ended with an error may have left it to this thread, which takes it over.

        Raises:
            ValueError: another process, or another thread, trains in the directory.
        """
        with self._guard:
            holder = self._held.get(self._key)
            if holder is not None:
                if holder._thread is not threading.current_thread() and holder._thread.is_alive():
                    raise ValueError(self._message(f"thread {holder._thread.name!r}"))
                holder._close()
            if fcntl is not None:
                self._lock()
            self._thread = threading.current_thread()
            self._held[self._key] = self

    def release(self) -> None:
        """Gives the lock back; nothing happens if it is not held."""
        with self._guard:
            if self._held.get(self._key) is self:
                self._close()

    def _lock(self):
        file = open(self.path, "a+")
        try:
            # Not `flock`, which the children of a process keep after its death.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(200).strip()
            file.close()
            if isinstance(error, BlockingIOError | PermissionError):
                raise ValueError(self._message(owner or "another process")) from None
            return  # a file system without locks
        file.truncate(0)
        file.write(f"process {os.getpid()} of {socket.gethostname()}")
        file.flush()
        self._file = file

    def _close(self):
        self._held.pop(self._key, None)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _message(self, owner):
        return (
            "`directory` must be that of one training at a time. "
            f"Received: {self.path.parent}, in which {owner} is training"
        )


def older_states(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of the states before the newest one, `path`; the newest of them first."""
    found = path.parent.glob(f"{path.stem}.*{path.suffix}")
    numbered = [file for file in found if file.suffixes[0][1:].isdecimal()]
    return sorted(numbered, key=lambda file: int(file.suffixes[0][1:]))


def clear_leftovers(path: pathlib.Path) -> None:
    """Removes what processes that died have left of states that they were writing."""
    for file in path.parent.glob(f"{path.name}.*.tmp"):
        file.unlink(missing_ok=True)


def write_state(
    path: pathlib.Path, metadata: dict, arrays: Mapping[str, np.ndarray], keep: int = 1
) -> None:
    """Writes a state. If the process dies meanwhile, the file that was there before remains.

    The state goes to a file of this process beside `path`. Once it is on the disk, it takes the
    place of `path` in one step of the file system. So `path` is at every moment the old state or
    the new one, whole. The states before it are `state.1.npz`, the newest, `state.2.npz`, ...

    Args:
        path: the file.
        metadata: what JSON can hold.
        arrays: the arrays by name.
        keep: how many states to keep, this one included.

    Raises:
        OSError: the file cannot be written, such as on a full disk. The old state remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    # With the names: a damaged list of contents can lack some without any other sign of it.
    text = np.frombuffer(json.dumps([metadata, sorted(arrays)]).encode(), "uint8")
    try:
        with open(written, "wb") as file:
            np.savez(file, **{_METADATA: text}, **arrays)
            file.flush()
            # Before the rename, which may reach the disk first: a power cut would leave an empty
            # file.
            os.fsync(file.fileno())
        _shift(path, keep)
        os.replace(written, path)
    except OSError as error:
        if error.errno is None:  # no error of the system
            raise
        raise OSError(
            error.errno,
            f"no state can be written to `directory` any more, the one before remains "
            f"({error.strerror or error})",
            str(path),
        ) from error
    finally:
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # POSIX: the new name is safe once the directory is on the disk
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _shift(path, keep):
    """Makes room for a new state: each one before it gets a number more, the oldest goes."""
    older = older_states(path)
    for file in older[max(keep - 2, 0) :]:
        file.unlink(missing_ok=True)
    if keep < 2 or not path.exists():
        return
    for number, file in reversed([*enumerate(older[: keep - 2], 2)]):
        os.replace(file, path.with_name(f"{path.stem}.{number}{path.suffix}"))
    first = path.with_name(f"{path.stem}.1{path.suffix}")
    try:
        os.link(path, first)  # a second name: `path` is never missing
    except OSError:
        os.replace(path, first)  # a file system without links


def first_whole(
    paths: list[pathlib.Path],
) -> tuple[pathlib.Path, dict, dict[str, np.ndarray]]:
    """Returns path, metadata and arrays of the first state that is whole; warns of the others.

    Args:
        paths: the files, the newest first.

    Raises:
        ValueError: all are damaged.
    """
    errors = []
    for path in paths:
        try:
            metadata, arrays = read_state(path)
            _check_whole(path, metadata, arrays)
        except ValueError as error:
            errors.append(error)
            continue
        newest = paths[0].with_name("state.npz")
        if path != newest:
            reason = f"is damaged ({errors[0].__cause__ or errors[0]})" if errors else "is missing"
            user_warnings.warn(
                f"{newest} {reason}. Training resumes from the state before it, {path.name}."
            )
        return path, metadata, arrays
    raise errors[0]


def _check_whole(path, metadata, arrays):
    """Raises a ValueError if a state lacks something that every state has."""
    try:
        ints = [metadata["epoch"], metadata["step"]]
        known = all(isinstance(number, int) and number >= 0 for number in ints)
        known &= all(isinstance(metadata[key], dict) for key in ("mixture", "identity", "examples"))
        metadata["learning_rate"]
        for kind in ("model", "optimizer", "metrics"):
            shapes = [
                list(arrays[f"{kind}/{i}"].shape) for i in range(len(metadata["variables"][kind]))
            ]
            known &= shapes == metadata["variables"][kind]
    except (KeyError, TypeError) as error:
        raise ValueError(damaged(path, f"{type(error).__name__}: {error}")) from error
    if not known:
        raise ValueError(damaged(path, "its parts do not fit each other"))


def read_state(
    path: pathlib.Path, contents: bytes | None = None
) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns metadata and arrays of a file that `write_state` wrote.

    Args:
        path: the file.
        contents: what the file holds, if it is not to be read.

    Returns:
        metadata and arrays.

    Raises:
        ValueError: the file is something else, or damaged.
    """
    source = path if contents is None else io.BytesIO(contents)
    try:
        with np.load(source, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        metadata, names = json.loads(arrays.pop(_METADATA).tobytes())
        if names != sorted(arrays):
            raise KeyError(f"{len(arrays)} arrays instead of {len(names)}")
        return metadata, arrays
    except Exception as error:  # a damaged archive raises nearly everything, `MemoryError` included
        raise ValueError(damaged(path, f"{type(error).__name__}: {error}")) from error


def damaged(path: pathlib.Path, reason: str) -> str:
    """Returns the message about a state that cannot be used."""
    return (
        "`directory` must hold a whole state of a training, or none: delete the directory to begin "
        f"anew. Received: {path} ({reason})"
    )
