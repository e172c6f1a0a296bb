import numpy as np
import pytest

from keras_multimodel.callbacks import state_file

METADATA = {"epoch": 3, "mixture": {"rows": {"a": 2}, "schedule": None}}
ARRAYS = {
    "model/0": np.arange(6, dtype="float32").reshape(2, 3),
    "schedule/steps": np.array(7),
    "empty": np.zeros((0, 4)),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a" / "new" / "state.npz"
    state_file.write(path, METADATA, ARRAYS)
    return path


def assert_whole(path):
    metadata, arrays = state_file.read(path)
    assert metadata == METADATA
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape


def test_what_is_written_is_read(path):
    assert_whole(path)
    assert [file.name for file in path.parent.iterdir()] == ["state.npz"]


def test_a_new_state_takes_the_place_of_the_old_one(path):
    state_file.write(path, {}, {"x": np.ones(2)})
    metadata, arrays = state_file.read(path)
    assert metadata == {} and list(arrays) == ["x"]


def test_the_old_state_remains_if_writing_fails(path, monkeypatch):
    def broken(file, **arrays):
        file.write(b"half of it")
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", broken)
        with pytest.raises(InterruptedError):
            state_file.write(path, {}, {})
    assert_whole(path)
    state_file.write(path, METADATA, ARRAYS)  # over what was left of the attempt
    assert_whole(path)


@pytest.mark.parametrize("length", [0, 10, 400])
def test_a_damaged_file(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"`directory` must hold a whole state .*state.npz \("):
        state_file.read(path)


def test_a_file_of_something_else(path):
    np.savez(path, x=np.ones(2))
    with pytest.raises(ValueError, match="`directory` must hold a whole state .*KeyError"):
        state_file.read(path)
