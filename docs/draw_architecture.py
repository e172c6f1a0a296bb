"""Draws the pictures of docs/architecture.md from the code as it is.

Run by `make docs-figures`. The imports come from the source files; the ways of a batch and of a
generated id come from running a tiny model and noting which functions of which file are entered.
What was found is written to `architecture.json`; a test compares that file with the code.
"""

import ast
import contextlib
import json
import pathlib
import sys
import threading
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import keras_multimodel as kmm

DOCS = pathlib.Path(__file__).parent
PACKAGE = pathlib.Path(kmm.__file__).parent
DESCRIPTION = DOCS / "architecture.json"

# Imported by everything; arrows to them would hide the others.
COMMON = {
    "argument_checks",
    "gaps",
    "regular_files",
    "text_tables",
    "typing",
    "user_warnings",
    "_keras_compat",
    "__init__",
}
COLORS = {
    "transfer": "#f6d6ad",
    "ablation": "#f6d6ad",
    "callbacks": "#f6d6ad",
    "models": "#f9e3a3",
    "generation": "#cfe8b9",
    "weighting": "#cfe8b9",
    "losses": "#cfe8b9",
    "presets": "#cfe8b9",
    "export": "#f9e3a3",
    "metrics": "#cfe8b9",
    "layers": "#b7dcef",
    "ops": "#d5cdec",
    "data": "#f3c6c6",
    "datasets": "#f3c6c6",
    "evaluation": "#f3c6c6",
    "tensor2tensor": "#dddddd",
    "visualization": "#dddddd",
}
# Center of each folder's box: what imports stands above what is imported.
PLACES = {
    "transfer": (5.2, 5.0),
    "ablation": (7.6, 5.0),
    "callbacks": (2.6, 5.0),
    "tensor2tensor": (9.6, 2.0),
    "datasets": (10.35, 5.0),
    "evaluation": (12.6, 5.0),
    "visualization": (1.2, 4.0),
    "models": (4.0, 4.0),
    "data": (10.2, 4.0),
    "weighting": (1.2, 2.2),
    "metrics": (3.6, 3.0),
    "losses": (3.6, 2.0),
    "generation": (9.0, 3.0),
    "presets": (1.2, 3.1),
    "export": (6.5, 3.3),
    "layers": (6.5, 2.0),
    "ops": (4.6, 1.0),
}
# From left to right in the pictures of a way. Functions of `ops`, and what `MoELayer` is made of,
# are left out: they belong to the layer that calls them.
LANES = ("data", "generation", "models", "layers", "losses", "metrics", "weighting")


def imports() -> dict[str, list[str]]:
    """Returns folder -> the folders that its files import, functions included."""
    found: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        folder = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(kmm.__name__):
                path = f"{node.module}.{node.names[0].name}"
                found.setdefault(folder, set()).add(path.split(".")[1])
    return {
        folder: sorted(targets - COMMON - {folder})
        for folder, targets in sorted(found.items())
        if folder not in COMMON and targets - COMMON - {folder}
    }


@contextlib.contextmanager
def _entered() -> Iterator[list[str]]:
    """Notes the public functions of the package that are entered, each as "file: function"."""
    entered: list[str] = []
    methods = {"call", "encode", "decode", "step", "__call__", "initial_cache"}

    def note(frame, event, _):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(f"{PACKAGE}/"):
            return
        owner, _, name = code.co_qualname.rpartition(".")
        public = name in methods if owner else not name.startswith(("_", "<"))
        file = pathlib.Path(code.co_filename).relative_to(PACKAGE)
        lane = file.parts[0].removesuffix(".py")
        inside = file.parts[:2] == ("layers", "moe") and file.name != "moe_layer.py"
        if public and "<locals>" not in owner and lane in LANES and not inside:
            entered.append(f"{file}: {code.co_qualname}")

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def _tiny_model() -> tuple[kmm.Task, kmm.MultiModel]:
    """Builds a model that writes a word for an image, from one block of each kind."""
    letters = kmm.data.train_text_preprocessor(
        ["one", "two"], 16, model_type="char", byte_fallback=False
    )
    pixels = kmm.data.ImagePreprocessor((8, 8))
    image = kmm.layers.ImageModality(8, (8, 8, 3), num_blocks=1, preprocessor=pixels)
    text = kmm.layers.TextModality(letters.vocabulary_size, 8, preprocessor=letters)
    task = kmm.Task("spell", image, text, max_target_length=8)
    model = kmm.MultiModel(
        [task],
        8,
        conv_block=kmm.layers.ConvBlock(8, (3,), (1,)),
        attention_block=kmm.layers.AttentionBlock(8, num_heads=2),
        moe=kmm.layers.MoELayer(8, num_experts=4, top_k=2),
        num_encoder_blocks=2,
        num_mixer_blocks=1,
        num_decoder_blocks=2,
    )
    model.compile("adam")
    return task, model


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Lets compiled functions run as Python, so that every call is seen."""
    was_eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(was_eager)


def ways() -> dict[str, dict[str, list[str]]]:
    """Returns the files that a batch and a generated id pass, step by step, in order."""
    task, model = _tiny_model()
    images = np.zeros((2, 8, 8, 3), "uint8")
    raw = tf.data.Dataset.from_tensor_slices({"inputs": images, "targets": ["one", "two"]})
    batch = {}
    with _entered() as batch["encode an example"]:
        encoded = kmm.data.encode(raw, task)
        task.inputs.preprocessor(images[0])
        task.targets.preprocessor("one")
    with _entered() as batch["mix examples to a batch"]:
        mixed = kmm.data.mix({"spell": encoded}, batch_size=2)
        x, y = next(iter(mixed))
    with _eager():
        model.fit(mixed, verbose=0)
        model.generate("spell", [images[0]], max_length=2)
        with _entered() as batch["call the model"]:
            outputs = model(x, training=True)
        with _entered() as batch["compute the loss"]:
            model.compute_loss(x, y, outputs)
        with _entered() as entered:
            model.generate("spell", [images[0]], max_length=2)
    batch = {phase: _first_of_each_file(lines) for phase, lines in batch.items()}
    return {"batch": batch, "generated id": _phases_of_generation(entered)}


def _first_of_each_file(lines: list[str]) -> list[str]:
    """Keeps the first function of each file, and of its classes the first of each method."""
    first = {}
    for line in lines:
        file, function = line.split(": ")
        method = function.partition(".")[2]
        if method or file not in {known for known, _ in first}:
            first.setdefault((file, method), line)
    return list(first.values())


def _phases_of_generation(lines: list[str]) -> dict[str, list[str]]:
    """Splits what `generate` enters at the first cache, the first step and the end of the loop."""
    caches = next(i for i, line in enumerate(lines) if line.endswith(".initial_cache"))
    steps = [i for i, line in enumerate(lines) if line.endswith(".step")]
    # Not `TextModality.decode`, which makes the logits of each id.
    end = next(i for i, line in enumerate(lines) if line.endswith("TaskGenerator.decode"))
    phases = {
        "encode the input": lines[:caches],
        "make the caches": lines[caches : steps[0]],
        "write one id": lines[steps[0] : end],
        "decode the ids": lines[end:],
    }
    return {phase: _first_of_each_file(entered) for phase, entered in phases.items()}


def describe() -> dict:
    """Returns all that the pictures show."""
    keras.utils.set_random_seed(0)
    return {"imports": imports(), **ways()}


def _reduced(edges: dict[str, list[str]]) -> dict[str, list[str]]:
    """Removes the imports that a longer path implies."""

    def reached(folder: str) -> set[str]:
        targets = set(edges.get(folder, ()))
        return targets.union(*map(reached, targets))

    return {
        folder: [x for x in targets if not any(x in reached(y) for y in targets)]
        for folder, targets in edges.items()
    }


def draw_imports(edges: dict[str, list[str]]) -> Figure:
    """Draws the folders, each above those that it imports."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axis = figure.add_subplot()
    axis.set(xlim=(-0.1, 13.9), ylim=(0.6, 5.4))
    axis.axis("off")
    boxes = {}
    for folder, (x, y) in PLACES.items():
        half = 0.075 * len(folder) + 0.28
        boxes[folder] = FancyBboxPatch(
            (x - half, y - 0.2), 2 * half, 0.4, "round,pad=0,rounding_size=0.1", zorder=2
        )
        boxes[folder].set(facecolor=COLORS[folder], edgecolor="#555555")
        axis.add_patch(boxes[folder])
        axis.text(x, y, folder, ha="center", va="center", fontsize=12, zorder=3)
    for folder, targets in _reduced(edges).items():
        for target in targets:
            arrow = FancyArrowPatch(PLACES[folder], PLACES[target], arrowstyle="-|>")
            arrow.set(mutation_scale=14, color="#777777", patchA=boxes[folder], zorder=1)
            arrow.set(patchB=boxes[target])
            axis.add_patch(arrow)
    return figure


def _lane(line: str) -> str:
    parts = line.split(":")[0].split("/")
    return parts[0].removesuffix(".py")


def draw_way(phases: dict[str, list[str]]) -> Figure:
    """Draws a way from top to bottom: a column for each folder, a row for each file."""
    lines = [line for entered in phases.values() for line in entered]
    order = sorted(dict.fromkeys(map(_lane, lines)), key=LANES.index)
    height = len(lines) + len(phases)
    figure = Figure(figsize=(2.3 * len(order) + 2.2, 0.36 * height + 0.6), layout="constrained")
    axis = figure.add_subplot()
    axis.set(xlim=(-1.4, len(order) - 0.48), ylim=(height - 0.2, -1.4))
    axis.axis("off")
    for column, folder in enumerate(order):
        axis.axvspan(column - 0.48, column + 0.48, color=COLORS[folder], alpha=0.3, lw=0)
        axis.text(column, -0.9, folder, ha="center", va="center", fontsize=13, weight="bold")
    row, last = 0.0, None
    for phase, entered in phases.items():
        axis.text(-1.38, row, phase, va="center", fontsize=11, style="italic")
        for line in entered:
            place = (order.index(_lane(line)), row)
            _box(axis, place, line)
            if last is not None:
                axis.plot(*zip(last, place), color="#888888", lw=1.2, zorder=1)
            row, last = row + 1, place
        if phase != list(phases)[-1]:
            axis.axhline(row, color="#aaaaaa", lw=0.8, ls=":")
        row += 1
    return figure


def _box(axis, place, line):
    file, function = line.split(": ")
    name = (file.partition("/")[2] or file).removesuffix(".py")
    box = FancyBboxPatch(
        (place[0] - 0.45, place[1] - 0.4), 0.9, 0.8, "round,pad=0,rounding_size=0.05", zorder=2
    )
    box.set(facecolor=COLORS[_lane(line)], edgecolor="#777777", mutation_aspect=5)
    axis.add_patch(box)
    axis.text(place[0], place[1] - 0.15, name, ha="center", va="center", fontsize=8.5, zorder=3)
    shown = function.removesuffix(".__call__")
    axis.text(place[0], place[1] + 0.2, shown, ha="center", va="center", fontsize=6.5, zorder=3)


def main() -> None:
    description = describe()
    DESCRIPTION.write_text(json.dumps(description, indent=2) + "\n")
    draw_imports(description["imports"]).savefig(DOCS / "architecture_imports.png", dpi=110)
    for name in ("batch", "generated id"):
        figure = draw_way(description[name])
        figure.savefig(DOCS / f"architecture_{name.replace(' ', '_')}.png", dpi=110)


if __name__ == "__main__":
    main()
