"""Pages of the site that are no files of `docs`: the reference, CONTRIBUTING, and the notebooks.

The pages are read on their own as well, with links that lead out of `docs`; here these are led to
the copies in the site.
"""

import ast
import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "keras_multimodel"


def on_files(files, config):
    """Adds the pages."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text().replace("](docs/", "](")
    pages = {"contributing.md": contributing, "reference.md": reference()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{path.name}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads links out of `docs` to the copies."""
    markdown = markdown.replace("](../CONTRIBUTING.md", "](contributing.md")
    return re.sub(r"\]\(\.\./(notebooks/[^)]*)\)", r"](\1)", markdown)


def on_page_content(html, page, config, files):
    """Leads each picture to itself, so that a phone can enlarge it."""
    return re.sub(r'(<img [^>]*src="([^"]*)"[^>]*>)', r'<a href="\2">\1</a>', html)


def reference() -> str:
    """Returns the page of all public names, a section for each namespace."""
    lines = ["# Reference", ""]
    for namespace, names in namespaces().items():
        lines += [f"## {namespace}", ""]
        for name in names:
            lines += [f"::: {name}", ""]
    return "\n".join(lines)


def namespaces() -> dict[str, list[str]]:
    """Returns `kmm.data` and so on, each with the homes of its names.

    From the source: building the site imports neither Keras nor a backend.
    """
    found = {"kmm": exports(ROOT / PACKAGE / "__init__.py")}
    for line in (ROOT / PACKAGE / "__init__.py").read_text().splitlines():
        match = re.fullmatch(rf"from {PACKAGE} import (\w+) as \1", line)
        if match:
            path = ROOT / PACKAGE / match[1]
            single = path.with_suffix(".py")
            names = defined(single) if single.is_file() else exports(path / "__init__.py")
            found[f"kmm.{match[1]}"] = names
    schedules = ROOT / PACKAGE / "data" / "mixing" / "schedules" / "__init__.py"
    return {**found, "kmm.data.schedules": exports(schedules)}


def exports(file: pathlib.Path) -> list[str]:
    """Returns the homes of the classes and functions that an `__init__` exports."""
    imports = (node for node in ast.parse(file.read_text()).body if hasattr(node, "names"))
    names = [f"{i.module}.{alias.name}" for i in imports for alias in i.names if i.module]
    # Modules are namespaces of their own.
    return [name for name in names if not is_module(name)]


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def defined(file: pathlib.Path) -> list[str]:
    """Returns the public classes and functions of a module."""
    nodes = ast.parse(file.read_text()).body
    kinds = (ast.ClassDef, ast.FunctionDef)
    names = [node.name for node in nodes if isinstance(node, kinds)]
    return [f"{PACKAGE}.{file.stem}.{name}" for name in names if not name.startswith("_")]
