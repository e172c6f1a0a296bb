import errno
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from keras_multimodel.callbacks import files

METADATA = {"epoch": 3, "mixture": {"rows": {"a": 2}, "schedule": None}}
ARRAYS = {
    "model/0": np.arange(6, dtype="float32").reshape(2, 3),
    "schedule/steps": np.array(7),
    "empty": np.zeros((0, 4)),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a" / "new" / "state.npz"
    files.write_state(path, METADATA, ARRAYS)
    return path


def assert_whole(path):
    metadata, arrays = files.read_state(path)
    assert metadata == METADATA
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape


def test_what_is_written_is_read(path):
    assert_whole(path)
    assert [file.name for file in path.parent.iterdir()] == ["state.npz"]


def test_a_new_state_takes_the_place_of_the_old_one(path):
    files.write_state(path, {}, {"x": np.ones(2)})
    metadata, arrays = files.read_state(path)
    assert metadata == {} and list(arrays) == ["x"]


def test_the_old_state_remains_if_writing_fails(path, monkeypatch):
    def broken(file, **arrays):
        file.write(b"half of it")
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", broken)
        with pytest.raises(InterruptedError):
            files.write_state(path, {}, {})
    assert_whole(path)
    files.write_state(path, METADATA, ARRAYS)  # over what was left of the attempt
    assert_whole(path)


@pytest.mark.parametrize("length", [0, 10, 400])
def test_a_damaged_file(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"`directory` must hold a whole state .*state.npz \("):
        files.read_state(path)


def test_a_file_of_something_else(path):
    np.savez(path, x=np.ones(2))
    with pytest.raises(ValueError, match="`directory` must hold a whole state .*KeyError"):
        files.read_state(path)


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_the_old_state_remains_at_whatever_moment_writing_ends(path, monkeypatch, name):
    def broken(*arguments):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(os, name, broken)
        with pytest.raises(InterruptedError):
            files.write_state(path, {}, {})
    assert_whole(path)


def test_a_state_is_on_the_disk_before_it_takes_the_place_of_the_old_one(path, monkeypatch):
    calls = []

    def spy(name):
        original = getattr(os, name)

        def call(*arguments):
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace"):
        spy(name)
    files.write_state(path, METADATA, ARRAYS)
    # The file, its new name, and the directory that has the name.
    assert calls == ["fsync", "replace", "fsync"]


_DIES = """
import importlib.util, os, pathlib, sys
import numpy as np

spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)

def half(file, **arrays):
    file.write(b"half of it")
    file.flush()
    os._exit(9)

np.savez = half
files.write_state(pathlib.Path(sys.argv[2]), {}, {})
"""


def test_the_old_state_remains_if_the_process_dies(path):
    died = subprocess.run([sys.executable, "-c", _DIES, files.__file__, str(path)])
    assert died.returncode == 9
    assert (path.parent / "state.npz.tmp").read_bytes() == b"half of it"
    assert_whole(path)
    files.write_state(path, METADATA, ARRAYS)
    assert_whole(path)
    assert [file.name for file in path.parent.iterdir()] == ["state.npz"]


BAD_PATHS = {
    "a file": lambda folder: folder / "file",
    "below a file": lambda folder: folder / "file" / "a" / "b",
    "below a device": lambda folder: "/dev/null/x",
    "a dangling link": lambda folder: folder / "dangling",
    "a loop of links": lambda folder: folder / "loop" / "x",
    "a file system of the kernel": lambda folder: "/proc/x",
    "a name that is too long": lambda folder: folder / ("x" * 300),
    "a name with a NUL": lambda folder: f"{folder}/a\0b",
    "empty": lambda folder: "",
    "no path": lambda folder: None,
}


@pytest.mark.parametrize("reason", BAD_PATHS)
def test_a_path_that_cannot_be_a_directory(tmp_path, reason):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = BAD_PATHS[reason](tmp_path)
    with pytest.raises(ValueError, match="^`log_dir` must be a directory. Received: log_dir="):
        files.writable_directory("log_dir", path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_directory_that_cannot_be_written_to(tmp_path, monkeypatch, number):
    """Mocked: root may write everywhere."""

    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(ValueError, match=f"can be written .*{os.strerror(number)}"):
        files.writable_directory("directory", tmp_path)


def test_a_directory_is_made_and_left_empty(tmp_path):
    path = files.writable_directory("directory", str(tmp_path / "a" / "b"))
    assert path == tmp_path / "a" / "b" and list(path.iterdir()) == []
    (tmp_path / "link").symlink_to(path)
    assert files.writable_directory("directory", tmp_path / "link") == tmp_path / "link"
