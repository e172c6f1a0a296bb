"""The code of the README and of the guides runs as it stands, and prints what the pages show."""

import ast
import functools
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_multimodel as kmm

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))
# Their code runs in this order, with the names of the first.
GUIDES = (
    "guide",
    "tasks",
    "blocks",
    "own_data",
    "mixing",
    "resume",
    "collapse",
    "own_block",
    "after_training",
    "divergence",
    "presets",
)


def _blocks(page, language):
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Bad examples were skipped")
def test_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    preset, first, ablations, study, own_data = _blocks("README.md", "python")
    shown_preset, shown_first, shown_own_data = _blocks("README.md", "text")
    names = {"__name__": "readme"}

    exec(preset, names)  # noqa: S102
    assert capsys.readouterr().out == shown_preset

    exec(first, names)  # noqa: S102
    _check_digits(capsys.readouterr().out)
    _check_digits(shown_first)

    # One block of each kind instead of twelve: the lines are about what the blocks are.
    few = {"num_encoder_blocks": 1, "num_mixer_blocks": 1, "num_decoder_blocks": 1}
    with monkeypatch.context() as patch:
        patch.setattr(kmm, "MultiModel", functools.partial(kmm.MultiModel, **few))
        exec(ablations, names)  # noqa: S102

    exec(own_data, names)  # noqa: S102
    assert capsys.readouterr().out == shown_own_data
    loaded = keras.saving.load_model("model.keras")
    assert loaded.generate("en_de", ["good night"]) == ["gute Nacht"]


@pytest.mark.slow
def test_the_study_of_the_readme(tmp_path, monkeypatch, capsys, eagerly):
    monkeypatch.chdir(tmp_path)
    block = next(block for block in _blocks("README.md", "python") if "Study" in block)
    assert len(block.splitlines()) <= 15
    # As it stands, with less data, fewer steps and a seed less.
    less = {"take(4000)": "take(8)", "batch_size=64": "batch_size=16", "steps=1000": "steps=1"}
    for written, small in {**less, "seeds=3": "seeds=2", "blocks=2": "blocks=1"}.items():
        assert written in block
        block = block.replace(written, small)
    exec(block, {"kmm": kmm})  # noqa: S102
    heads, _, reference, variant = capsys.readouterr().out.splitlines()
    assert "| en_de_accuracy | parse_accuracy |" in heads
    assert (tmp_path / "attention.png").stat().st_size > 5000
    assert len([*(tmp_path / "runs" / "attention").glob("*.json")]) == 4
    sizes = [int(row.split("|")[2].replace(",", "")) for row in (reference, variant)]
    assert abs(sizes[1] / sizes[0] - 1) <= 0.02
    assert reference.split("|")[1].strip() == "all" and "[" in variant


def _check_digits(printed):
    """Checks that the page's labels are the true ones, and that most answers are right."""
    digits = kmm.datasets.load("digits", "test").take(10).as_numpy_iterator()
    true = [int(example["targets"]) for example in digits]
    words = "zero one two three four five six seven eight nine".split()
    labels, classes, spelled = (ast.literal_eval(line) for line in printed.splitlines())
    assert labels == [str(label) for label in true]
    assert np.mean(np.array(classes) == labels) >= 0.8
    assert np.mean(np.array(spelled) == [words[label] for label in true]) >= 0.7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Bad examples were skipped")
def test_guides(tmp_path, monkeypatch, capsys, eagerly):
    monkeypatch.chdir(tmp_path)
    names, prints = {"__name__": "guide"}, {}
    for page in GUIDES:
        for block in _blocks(f"docs/{page}.md", "python"):
            exec(block, names)  # noqa: S102
        prints[page] = capsys.readouterr().out
    printed = "".join(prints.values())
    assert prints["own_data"].startswith("20\n")
    assert re.search(r"broken image +1  flowers/rose/broken.png\n", printed)
    assert re.search(r"^en_de +targets", printed, re.MULTILINE)
    assert (tmp_path / "runs" / "two_tasks" / "state.npz").is_file()
    assert len(names["history"].history["en_de_weight"]) == 2
    assert sorted(names["model"].tasks) == ["digits", "en_de"]


def test_own_modality(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "own_modality"}
    for block in _blocks("docs/own_modality.md", "python"):
        exec(block, names)  # noqa: S102
    written = ast.literal_eval(capsys.readouterr().out)
    true = [example["targets"] for example in names["examples"]]
    assert np.mean([int(label) == target for label, target in zip(written, true)]) >= 0.8
    raw = [example["inputs"] for example in names["examples"]]
    assert names["loaded"].generate("speed", raw) == written


def test_the_page_of_backbones(tmp_path, monkeypatch, capsys, eagerly):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "backbones"}
    for block in _blocks("docs/backbones.md", "python"):
        exec(block, names)  # noqa: S102
    assert set(ast.literal_eval(capsys.readouterr().out)) <= {"save", "open"}
    assert not any(weight.trainable for weight in names["backbone"].weights)
    raw = [np.zeros((28, 28, 3), "uint8")]
    loaded = keras.saving.load_model("digits.keras")
    assert loaded.generate("digits", raw)[0] in map(str, range(10))
    # Padding is no part of what BERT reads, and the vocabulary is in the file.
    model, text = names["model"], "open the file"
    model.save("texts.keras")
    loaded = keras.saving.load_model("texts.keras")
    alone, beside = (
        loaded.score("kind", texts, ["open"] * len(texts))[0]
        for texts in ([text], [text, f"{text} . . . ."])
    )
    np.testing.assert_allclose(beside, alone, atol=1e-5)


@pytest.mark.slow
def test_the_page_of_rows(tmp_path, monkeypatch, capsys, eagerly):
    monkeypatch.chdir(tmp_path)
    table, *others = _blocks("docs/rows.md", "python")
    assert len(table.split("import keras_multimodel as kmm")[1].strip().splitlines()) <= 12
    names = {"__name__": "rows"}
    for block in (table, *others):
        exec(block, names)  # noqa: S102
    assert capsys.readouterr().out == "2\n['emoji']\n(2,)\n"
    (own,) = [block for block in others if "class PlaceModality" in block]
    assert len([line for line in own.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_library_exist(page):
    text = (ROOT / page).read_text()
    for path in sorted(set(re.findall(r"\bkmm((?:\.\w+)+)", text))):
        found = kmm
        for name in path.split(".")[1:]:
            assert hasattr(found, name), f"kmm{path}"
            found = getattr(found, name)
