"""Presets on the Hugging Face Hub, through `huggingface_hub`, which is optional."""

import os
import re
from pathlib import Path
from typing import Any

from keras_multimodel.presets.folder import CARD, CHECKSUMS, CONFIG, WEIGHTS, read_preset

PREFIX = "hf://"
_FILES = [CARD, CHECKSUMS, CONFIG, WEIGHTS]
_REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def upload(folder: str | os.PathLike, repository: str, private: bool = False) -> str:
    """Uploads a preset to the Hugging Face Hub, where others load it as `"hf://user/repository"`.

    Log in first: `hf auth login`, or the variable `HF_TOKEN`. The card of the preset becomes the
    page of the repository. Only the files of a preset are uploaded.

    Args:
        folder: a folder that `MultiModel.save_to_preset` wrote.
        repository: `"user/repository"`, with `"hf://"` in front or not; created if it does not
            exist.
        private: whether a new repository is private.

    Returns:
        The address of the upload.

    Raises:
        ValueError: `folder` is no whole preset, or `repository` has another form.
        ModuleNotFoundError: huggingface_hub is not installed; `keras-multimodel[hub]` has it.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    model = kmm.MultiModel([kmm.Task("copy", text, text)], hidden_dim=32, moe=None)
    model.save_to_preset("copier", card="# A model that copies")
    # kmm.presets.upload("copier", "your-name/copier")
    # kmm.MultiModel.from_preset("hf://your-name/copier")
    ```
    """
    name, revision = _parse("repository", repository)
    if revision is not None:
        expected = "`repository` must be 'user/repository', without a revision"
        raise ValueError(f"{expected}. Received: repository={repository!r}")
    read_preset(folder)  # nothing damaged goes out
    api = _hub().HfApi()
    api.create_repo(name, private=private, exist_ok=True)
    done = api.upload_folder(repo_id=name, folder_path=str(folder), allow_patterns=_FILES)
    return str(done)


def local_preset(preset: str | os.PathLike) -> str | os.PathLike:
    """Downloads a preset of the Hub, unless it is in the cache of `huggingface_hub`.

    Args:
        preset: `"hf://user/repository"`, with `"@revision"` behind it or not; all else is returned
            as it is.

    Returns:
        The folder.

    Raises:
        ValueError: `preset` has another form, or cannot be downloaded.
        ModuleNotFoundError: huggingface_hub is not installed; `keras-multimodel[hub]` has it.
    """
    if not str(preset).startswith(PREFIX):
        return preset
    name, revision = _parse("preset", str(preset))
    hub = _hub()
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # of the network, of the hub, of its cache: there is no common class
        expected = "`preset` must be a repository that can be downloaded, or is in the cache"
        received = f"preset={preset!r} ({type(error).__name__}: {error})"
        raise ValueError(f"{expected}. Received: {received}") from error


def _parse(argument: str, address: str) -> tuple[str, str | None]:
    found = _REPOSITORY.fullmatch(str(address).removeprefix(PREFIX))
    if found is None:
        expected = f"`{argument}` must be of the form 'hf://user/repository'"
        raise ValueError(f"{expected}. Received: {argument}={address!r}")
    return found["repo"], found["revision"]


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "huggingface_hub is needed for presets of the Hugging Face Hub: "
            "pip install 'keras-multimodel[hub]'"
        ) from error
    return huggingface_hub
