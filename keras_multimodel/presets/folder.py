"""A preset: a folder with the config, weights and card of a model, and checksums, but no code.

| file | what it holds |
|---|---|
| `config.json` | layers, tasks and vocabularies, as `MultiModel.get_config` returns them |
| `weights.npz` | the weights, in the model's order |
| `README.md` | the model card; for people, may be edited |
| `checksums.json` | SHA-256 of the first two |
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SHIPPED = Path(__file__).parent / "files"
CONFIG, WEIGHTS, CARD, CHECKSUMS = "config.json", "weights.npz", "README.md", "checksums.json"


def names() -> tuple[str, ...]:
    """Returns the names of the presets that ship with the library."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CHECKSUMS}")))


def write_preset(
    folder: str | os.PathLike, config: dict[str, Any], weights: Sequence[np.ndarray], card: str
) -> None:
    """Writes a preset. Files of an older one are replaced, others are left alone.

    Args:
        folder: the folder; created if it does not exist.
        config: what JSON can hold.
        weights: the arrays.
        card: Markdown.

    Raises:
        ValueError: `folder` is a file.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        expected = "`folder` must be a folder, or not exist yet"
        raise ValueError(f"{expected}. Received: folder={str(folder)!r}, a file") from error
    buffer = io.BytesIO()
    np.savez(buffer, *weights)
    contents = {CONFIG: json.dumps(config, indent=1).encode(), WEIGHTS: buffer.getvalue()}
    for name, content in contents.items():
        (path / name).write_bytes(content)
    (path / CARD).write_text(card, encoding="utf-8")
    # Last: a folder that was written in part only does not fit its checksums.
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    (path / CHECKSUMS).write_text(json.dumps(checksums, indent=1))


def read_preset(preset: str | os.PathLike) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Reads a preset, and checks that it is as it was written.

    Args:
        preset: a name of `names()`, or a folder.

    Returns:
        The config and the weights.

    Raises:
        ValueError: there is no such preset, or a file of it is missing or changed.
    """
    path = SHIPPED / preset if preset in names() else Path(preset)
    try:
        contents = {name: (path / name).read_bytes() for name in (CHECKSUMS, CONFIG, WEIGHTS)}
    except OSError as error:
        raise _not_a_preset(preset, f"where {error.filename} cannot be read") from error
    try:
        checksums = json.loads(contents.pop(CHECKSUMS))
    except ValueError as error:  # JSON or UTF-8
        raise _not_a_preset(preset, f"where {CHECKSUMS} is damaged") from error
    actual = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if checksums != actual:
        raise _not_a_preset(preset, f"whose files do not fit {CHECKSUMS}")
    with np.load(io.BytesIO(contents[WEIGHTS]), allow_pickle=False) as file:
        return json.loads(contents[CONFIG]), [file[f"arr_{i}"] for i in range(len(file.files))]


def _not_a_preset(preset, problem):
    expected = "`preset` must be a whole folder that `save_to_preset` wrote"
    if names():
        expected += f", or one of {', '.join(names())}"
    return ValueError(f"{expected}. Received: preset={str(preset)!r}, {problem}")
