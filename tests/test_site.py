"""The reference of the site has every public name."""

import importlib.util
import pathlib

import pytest

from tests.test_public_surface import MODULES, SURFACE

pytest.importorskip("mkdocs")
HOOKS = pathlib.Path(__file__).parents[1] / "docs" / "site_hooks.py"


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", HOOKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference(hooks):
    found = {path: {n.split(".")[-1] for n in names} for path, names in hooks.namespaces().items()}
    listed = {path: set(names.split()) for path, names in {**SURFACE, **MODULES}.items()}
    assert found == listed
    assert hooks.reference().count("::: keras_multimodel.") == sum(map(len, listed.values()))


def test_links_out_of_the_folder_lead_to_copies(hooks):
    text = "[a](../notebooks/01_quickstart.ipynb) [b](../CONTRIBUTING.md#add-a-block) [c](guide.md)"
    assert hooks.on_page_markdown(text, None, None, None) == (
        "[a](notebooks/01_quickstart.ipynb) [b](contributing.md#add-a-block) [c](guide.md)"
    )


def test_a_picture_leads_to_itself(hooks):
    picture = '<img alt="curves" src="curves.png" />'
    assert hooks.on_page_content(f"<p>{picture}</p>", None, None, None) == (
        f'<p><a href="curves.png">{picture}</a></p>'
    )
