"""What `make dist` built: wheel and source distribution hold what they must, and no more."""

import pathlib
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "keras_multimodel"


def built(pattern):
    found = sorted((ROOT / "dist").glob(pattern))
    if not found:
        pytest.skip("`make dist` has not been run")
    return found[-1]


def source_files():
    """Returns the files of the package, as they lie here."""
    files = (path for path in (ROOT / PACKAGE).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_is_the_package():
    wheel = built("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    metadata = {name for name in names if ".dist-info/" in name}
    assert set(names) - metadata == source_files()
    assert {f"{PACKAGE}/py.typed", f"{PACKAGE}/datasets/files/parsing/trees.tsv"} <= set(names)
    assert any(name.endswith("LICENSE") for name in metadata)
    assert wheel.stat().st_size < 40e6


def test_the_source_distribution_can_be_built_and_read():
    names = tarfile.open(built("*.tar.gz")).getnames()
    inside = {name.partition("/")[2] for name in names}
    assert source_files() <= inside
    assert {"LICENSE", "README.md", "pyproject.toml"} <= inside
    hidden = [name for name in inside if name.split("/")[0] in (".venv", "runs", "dist")]
    assert not hidden
