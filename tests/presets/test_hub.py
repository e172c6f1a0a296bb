"""Presets on a hub: a stub of its client, without network."""

import sys
import types

import pytest

import keras_multimodel as kmm
from keras_multimodel.layers import TextModality
from tests.models import small_models

ADDRESS = "https://hub.example/user/copier"


class Stub(types.ModuleType):
    """A folder in place of the hub, with what is used of `huggingface_hub`."""

    def __init__(self, folder):
        super().__init__("huggingface_hub")
        self.folder, self.calls = folder, []

    def HfApi(self):  # noqa: N802
        return self

    def create_repo(self, name, private, exist_ok):
        self.calls.append(("create_repo", name, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, allow_patterns):
        self.calls.append(("upload_folder", repo_id, sorted(allow_patterns)))
        self.folder = folder_path
        return ADDRESS

    def snapshot_download(self, name, revision, allow_patterns):
        self.calls.append(("snapshot_download", name, revision, sorted(allow_patterns)))
        if self.folder is None:
            raise ConnectionError("no network")
        return str(self.folder)


FILES = ["README.md", "checksums.json", "config.json", "weights.npz"]


@pytest.fixture
def hub(monkeypatch):
    stub = Stub(None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    return stub


def test_a_preset_goes_up_and_comes_down(hub, tmp_path):
    text = TextModality(5, 16)
    sizes = {"moe": None, "attention_block": None, "num_encoder_blocks": 1, "num_mixer_blocks": 0}
    model = small_models.build([kmm.Task("copy", text, text)], **sizes)
    model.save_to_preset(tmp_path)
    assert kmm.presets.upload(tmp_path, "user/copier", private=True) == ADDRESS
    for address, revision in (("hf://user/copier", None), ("hf://user/copier@v1.0", "v1.0")):
        loaded = kmm.MultiModel.from_preset(address)
        assert hub.calls[-1] == ("snapshot_download", "user/copier", revision, FILES)
        assert list(loaded.tasks) == ["copy"] and loaded.count_params() == model.count_params()
    assert hub.calls[:2] == [
        ("create_repo", "user/copier", True, True),
        ("upload_folder", "user/copier", FILES),
    ]


def test_what_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match="`preset` must be a whole folder"):
        kmm.presets.upload(tmp_path, "user/copier")
    for bad in ("copier", "a/b/c", "user/copier@v1", "hf://user"):
        with pytest.raises(ValueError, match=f"`repository` must .*repository='{bad}'"):
            kmm.presets.upload(tmp_path, bad)
    assert hub.calls == []
    with pytest.raises(
        ValueError, match="can be downloaded.*hf://user/copier.*ConnectionError: no"
    ):
        kmm.MultiModel.from_preset("hf://user/copier")
    with pytest.raises(ValueError, match="`preset` must be of the form .*preset='hf://copier'"):
        kmm.MultiModel.from_preset("hf://copier")
    hub.folder = tmp_path  # where there is something else
    with pytest.raises(ValueError, match="`preset` must be a whole folder"):
        kmm.MultiModel.from_preset("hf://user/copier")


def test_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras-multimodel\[hub\]'"):
        kmm.MultiModel.from_preset("hf://user/copier")


def test_an_address_is_no_folder():
    from keras_multimodel.presets.folder import write_preset

    with pytest.raises(ValueError, match="`folder` must be a folder here.*hf://user/copier"):
        write_preset("hf://user/copier", {}, [], "")
