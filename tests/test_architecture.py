"""`docs/architecture.md` and its pictures show the code as it is."""

import importlib.util
import json
import pathlib
import re

import pytest

import keras_multimodel as kmm

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def draw():
    """The script that draws the pictures, as a module."""
    spec = importlib.util.spec_from_file_location("draw", DOCS / "draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", ["imports", "batch", "generated id"])
def test_the_pictures_show_the_code(draw, part):
    drawn = json.loads(draw.DESCRIPTION.read_text())[part]
    now = draw.imports() if part == "imports" else draw.ways()[part]
    assert drawn == now, "the code has changed: run `make docs-figures`, and read architecture.md"


def test_every_folder_has_a_place_in_the_picture(draw):
    package = pathlib.Path(kmm.__file__).parent
    folders = {path.parent.relative_to(package).parts[0] for path in package.glob("*/__init__.py")}
    assert folders <= set(draw.PLACES)
    assert set(draw.PLACES) == set(draw.COLORS)


def test_every_folder_is_explained():
    text = (DOCS / "architecture.md").read_text()
    package = pathlib.Path(kmm.__file__).parent
    for file in package.rglob("__init__.py"):
        folder = str(file.parent.relative_to(package))
        if folder != ".":
            assert f"`{folder}`" in text, folder


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_that_the_pages_name_exist(page):
    text = (DOCS.parent / page).read_text()
    package = pathlib.Path(kmm.__file__).parent
    for path in sorted(set(re.findall(r"`([\w./-]+\.(?:py|md|json|yml|toml|txt))`", text))):
        written_by_the_reader = "my_" in path
        found = any((root / path).exists() for root in (DOCS, DOCS.parent, package))
        homes = [file for file in package.rglob(path) if "/" not in path]
        assert written_by_the_reader or found or homes, path
