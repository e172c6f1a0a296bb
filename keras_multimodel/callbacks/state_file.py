"""A file of arrays that is whole or not there."""

import json
import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

_METADATA = "metadata"


def write(path: pathlib.Path, metadata: dict, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a state. If the process ends meanwhile, the file that was there before remains.

    Args:
        path: the file.
        metadata: what JSON can hold.
        arrays: the arrays by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.tmp")
    text = np.frombuffer(json.dumps(metadata).encode(), "uint8")
    with open(written, "wb") as file:
        np.savez(file, **{_METADATA: text}, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(written, path)


def read(path: pathlib.Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns metadata and arrays of a file that `write` wrote.

    Args:
        path: the file.

    Returns:
        metadata and arrays.

    Raises:
        ValueError: the file is no such file, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop(_METADATA).tobytes()), arrays
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            "`directory` must hold a whole state of a training, or none: delete the file to begin "
            f"anew. Received: {path} ({type(error).__name__}: {error})"
        ) from error
