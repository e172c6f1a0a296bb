import errno
import os
import subprocess
import sys
import tempfile
import threading

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
    (left,) = path.parent.glob("state.npz.*.tmp")
    assert left.read_bytes() == b"half of it"
    assert_whole(path)
    files.clear_leftovers(path)
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


def test_states_before_the_newest_are_kept(path):
    for number in range(4):
        files.write_state(path, {"number": number}, {}, keep=3)
    states = [path, *files.older_states(path)]
    assert [file.name for file in states] == ["state.npz", "state.1.npz", "state.2.npz"]
    assert [files.read_state(file)[0]["number"] for file in states] == [3, 2, 1]
    files.write_state(path, {"number": 4}, {}, keep=2)
    assert [file.name for file in files.older_states(path)] == ["state.1.npz"]
    files.write_state(path, {"number": 5}, {})
    assert files.older_states(path) == [] and files.read_state(path)[0] == {"number": 5}


def test_a_full_disk_leaves_the_old_state(path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="no state can be written .*No space left .*state.npz"):
            files.write_state(path, {}, {}, keep=3)
    assert_whole(path)
    assert [file.name for file in path.parent.iterdir()] == ["state.npz"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_disk_without_room_is_found_at_once(tmp_path):
    message = r"`directory` must be .*no file of 1,000,000,000,000,000,000 bytes can be written"
    with pytest.raises(ValueError, match=message):
        files.writable_directory("directory", tmp_path, 10**18)
    assert list(tmp_path.iterdir()) == []


def test_every_byte_that_is_changed_is_harmless_or_the_one_error(path):
    whole = path.read_bytes()
    errors = 0
    for place in range(len(whole)):
        for flip in (1, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            try:
                assert_whole(path)
            except ValueError as error:
                assert "must hold a whole state of a training" in str(error)
                errors += 1
    assert errors > len(whole)


_LOCKS = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
files.DirectoryLock(pathlib.Path(sys.argv[2])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.skipif(files.fcntl is None, reason="there are no locks")
def test_a_directory_is_that_of_one_process(tmp_path):
    arguments = [sys.executable, "-c", _LOCKS, files.__file__, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    lock = files.DirectoryLock(tmp_path)
    with subprocess.Popen(arguments, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match=f"Received: .*, in which process {other.pid} of .* is"
        ):
            lock.acquire()
        other.kill()
    lock.acquire()  # a killed process leaves no lock
    again = files.DirectoryLock(tmp_path)
    again.acquire()  # of this thread, whose earlier training must have ended
    lock.release()  # not the holder any more
    again.release()
    subprocess.run(arguments, input="", text=True, check=True, capture_output=True)


def test_a_directory_is_that_of_one_thread(tmp_path):
    lock, done, held = files.DirectoryLock(tmp_path), threading.Event(), threading.Event()

    def train():
        lock.acquire()
        held.set()
        done.wait()

    thread = threading.Thread(target=train, name="first")
    thread.start()
    held.wait()
    with pytest.raises(ValueError, match="in which thread 'first' is training"):
        files.DirectoryLock(tmp_path).acquire()
    done.set()
    thread.join()
    other = files.DirectoryLock(tmp_path)
    other.acquire()  # the thread has ended
    other.release()
