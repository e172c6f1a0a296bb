"""Every example in a docstring of the package runs, and prints what it says.

Examples know `kmm`, `keras_multimodel`, `keras`, `np` and `ops`, and what an earlier example of the
same docstring defined. They are `>>>` lines, whose output is compared, or ```python blocks. An
example that needs prepared data says so in its first line, and is compiled only.
"""

import ast
import doctest
import pathlib
import re
import textwrap

import keras
import numpy as np
import pytest

import keras_multimodel as kmm

PACKAGE = pathlib.Path(kmm.__file__).parent
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef)
MARKER = "# Needs data that tensorflow-datasets has prepared."
pytestmark = pytest.mark.usefixtures("eagerly")  # most train for a step or two
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class _Shapes(doctest.OutputChecker):
    """Takes the shape of a TensorFlow tensor for the tuple that other backends print."""

    def check_output(self, want, got, optionflags):
        got = re.sub(r"TensorShape\(\[(\d+)\]\)", r"(\1,)", got)
        got = re.sub(r"TensorShape\(\[(.*?)\]\)", r"(\1)", got)
        return super().check_output(want, got, optionflags)


def _docstrings(node, name):
    """Yields the name, first line and text of each docstring of a module."""
    if ast.get_docstring(node):
        yield name, node.body[0].lineno, ast.get_docstring(node)
    for child in node.body:
        if isinstance(child, DEFINITIONS):
            yield from _docstrings(child, f"{name}.{child.name}")


def _with_examples():
    """Returns the docstrings that have an example, by name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        for name, line, text in _docstrings(ast.parse(file.read_text()), module):
            if ">>>" in text or "```python" in text:
                found[name.removesuffix(".__init__")] = (file, line, text)
    return found


EXAMPLES = _with_examples()


def _run(name, file, line, text):
    names = {
        "kmm": kmm,
        "keras_multimodel": kmm,
        "keras": keras,
        "np": np,
        "ops": keras.ops,
        "__name__": name,
    }
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if ">>>" in block:
            continue
        code = compile(textwrap.dedent(block), f"{file}:{line}", "exec")
        if MARKER not in block:
            exec(code, names)  # noqa: S102
    lines = re.sub(r"^ *```.*$", "", text, flags=re.MULTILINE)  # a fence is no output
    example = doctest.DocTestParser().get_doctest(lines, names, name, str(file), line - 1)
    runner = doctest.DebugRunner(checker=_Shapes(), optionflags=FLAGS)
    try:
        runner.run(example, clear_globs=False)
    except doctest.UnexpectedException as error:
        raise error.exc_info[1] from None
    except doctest.DocTestFailure as failure:
        shown = failure.example
        pytest.fail(f"{name}: {shown.source}expected:\n{shown.want}got:\n{failure.got}")


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _run(name, *EXAMPLES[name])


def test_examples_that_are_compiled_only():
    marked = [name.rpartition(".")[2] for name in EXAMPLES if MARKER in EXAMPLES[name][2]]
    assert sorted(marked) == ["coco_captions", "imagenet2012", "librispeech", "wmt14_translate"]


def test_a_wrong_example_fails(tmp_path):
    with pytest.raises(pytest.fail.Exception, match="expected:\n3\ngot:\n2"):
        _run("wrong", tmp_path, 1, ">>> 1 + 1\n3\n")
    with pytest.raises(NameError):
        _run("wrong", tmp_path, 1, "```python\nmissing()\n```")
