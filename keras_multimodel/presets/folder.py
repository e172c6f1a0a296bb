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
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_multimodel.argument_checks import made_folder
from keras_multimodel.regular_files import open_regular, read_regular

SHIPPED = Path(__file__).parent / "files"
CONFIG, WEIGHTS, CARD, CHECKSUMS = "config.json", "weights.npz", "README.md", "checksums.json"
_MOST_CONFIG, _MOST_CHECKSUMS = 1 << 28, 1 << 16  # bytes; vocabularies take some millions


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
        ValueError: `folder` is a file, or an address.
    """
    if str(folder).startswith("hf:/"):
        expected = "`folder` must be a folder here, which `kmm.presets.upload` then uploads"
        raise ValueError(f"{expected}. Received: folder={str(folder)!r}")
    path = made_folder("folder", folder)
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
    try:
        path = SHIPPED / preset if preset in names() else Path(preset)
        checksums = json.loads(read_regular(path / CHECKSUMS, _MOST_CHECKSUMS))
        content = read_regular(path / CONFIG, _MOST_CONFIG)
        with open_regular(path / WEIGHTS) as file:
            # Hashed before anything is made of it, and without being held in memory.
            actual = {
                CONFIG: hashlib.sha256(content).hexdigest(),
                WEIGHTS: hashlib.file_digest(file, "sha256").hexdigest(),
            }
            if checksums != actual:
                raise ValueError(f"its files do not fit {CHECKSUMS}")
            return json.loads(content), _read_arrays(file)
    except OSError as error:
        raise _not_a_preset(preset, f"where {error.filename} cannot be read") from error
    except Exception as error:  # damaged JSON and archives raise many kinds
        raise _not_a_preset(preset, f"which is damaged: {error}") from error


def _read_arrays(file: io.BufferedReader) -> list[np.ndarray]:
    """Reads arrays that `numpy.savez` wrote; none may declare more than the file holds."""
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if sum(sizes.values()) > os.fstat(file.fileno()).st_size:
            raise ValueError("its arrays are larger than the file")
        return [_read_array(archive, f"arr_{i}.npy") for i in range(len(sizes))]


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        headers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, is_fortran, dtype = headers[version](file)
        content = file.read()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{name} holds {len(content)} bytes for shape {shape} and dtype {dtype}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def _not_a_preset(preset, problem):
    expected = "`preset` must be a whole folder that `save_to_preset` wrote"
    if names():
        expected += f", or one of {', '.join(names())}"
    return ValueError(f"{expected}. Received: preset={str(preset)!r}, {problem}")
