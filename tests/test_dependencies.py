"""What `pyproject.toml` asks for is what the package imports, no more and no less."""

import ast
import importlib.metadata
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Read through Keras or by another package of the same extra, and named for its version only.
PINS_ONLY = {"tensorflow-metadata"}
# What the package imports where it is needed.
EXTRAS = ["ablation", "evaluation", "export", "hub", "io", "tfds"]
# Backends that a user brings along.
BACKENDS = {"jax", "torch"}


def _names(requirements):
    return {re.match(r"[\w-]+", requirement).group() for requirement in requirements}


def _imported():
    """Returns the top-level modules that the package imports, in functions as well."""
    modules = set()
    for file in (ROOT / "keras_multimodel").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.split(".")[0])
    return modules - set(sys.stdlib_module_names) - {"keras_multimodel"}


def _modules_of(name):
    """Returns the names under which an installed distribution is imported."""
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:  # tensorflow-io, beside the latest TensorFlow
        files = []
    return {file.parts[0].removesuffix(".py") for file in files}


@pytest.mark.parametrize("name", sorted(_names(PROJECT["dependencies"])))
def test_a_required_package_is_imported(name):
    assert _modules_of(name) & _imported()


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_optional_package_is_imported(extra):
    for name in _names(PROJECT["optional-dependencies"][extra]) - PINS_ONLY:
        # Not installed beside the latest TensorFlow: there the name of the module is all there is.
        assert name.replace("-", "_") in _imported()


def test_an_imported_package_is_asked_for():
    extras = sum((PROJECT["optional-dependencies"][extra] for extra in EXTRAS), [])
    names = _names(PROJECT["dependencies"] + extras)
    asked = {name.replace("-", "_") for name in names}.union(*map(_modules_of, names))
    assert _imported() - BACKENDS <= asked


def test_extras_that_a_user_installs():
    assert sorted(PROJECT["optional-dependencies"]) == [
        "ablation",
        "dev",
        "evaluation",
        "export",
        "hub",
        "io",
        "notebooks",
        "tfds",
    ]
