"""What is no regular file is neither waited for nor read."""

import errno

import pytest

from keras_multimodel.regular_files import open_regular, read_regular
from tests.data.encoding.stopping_files import hole, special_files


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "folder").mkdir()
    for name in ("a", "link"):
        assert read_regular(tmp_path / name) == read_regular(tmp_path / name, 7) == b"content"
    for name in [*special_files(tmp_path, ".x"), "folder"]:
        for read in (open_regular, read_regular):
            with pytest.raises(OSError):
                read(tmp_path / name)


def test_no_more_is_read_than_allowed(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    hole(tmp_path / "hole", 1 << 40)
    for path in (tmp_path / "a", tmp_path / "hole", "/proc/self/maps"):  # the last says 0 bytes
        with pytest.raises(OSError, match="more than 6 bytes") as error:
            read_regular(path, 6)
        assert error.value.errno == errno.EFBIG
