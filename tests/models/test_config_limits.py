"""Configs and files that anybody may have written: refused before memory is taken."""

import copy
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.models import config_limits
from tests.models.hostile_configs import (
    ABSURD,
    WRONG,
    of,
    of_task,
    save_model,
    that_name_a_file,
    write_keras,
    write_preset,
)

opened = []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model in both forms, and its config."""
    return save_model(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module", autouse=True)
def hook():
    """Notes the files that are opened; an audit hook cannot be removed."""
    sys.addaudithook(lambda name, args: name == "open" and opened.append(str(args[0])))


@pytest.mark.parametrize("message", [*ABSURD, *WRONG])
def test_configs_that_are_refused(saved, message):
    config = copy.deepcopy(saved[1]["config"])
    (ABSURD | WRONG)[message](config)
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        kmm.MultiModel.from_config(config)
    with pytest.raises(ValueError, match="`config` must be a dict. Received: list"):
        kmm.MultiModel.from_config([config])


@pytest.mark.parametrize(
    "change",
    [of("TextModality", vocabulary_size=10**6), of_task(inputs=-1)],
    ids=["large", "index"],
)
def test_files_with_such_configs(saved, tmp_path, change):
    config = copy.deepcopy(saved[1]["config"])
    change(config)
    write_keras(tmp_path / "bad.keras", saved, config)
    expected = r"for a file with \d+ bytes of them. Received: more.*1000000|inputs=-1"
    with pytest.raises(ValueError, match=expected):
        keras.models.load_model(tmp_path / "bad.keras", safe_mode=True)
    with zipfile.ZipFile(tmp_path / "bad.keras") as archive:  # Keras reads folders too
        archive.extractall(tmp_path / "folder")
    with pytest.raises(ValueError, match=expected):
        keras.models.load_model(tmp_path / "folder", safe_mode=True)
    write_preset(tmp_path / "preset", saved, config)
    with pytest.raises(ValueError, match=f"`preset` must fit.*({expected})"):
        kmm.MultiModel.from_preset(tmp_path / "preset")


def test_weights_that_expand(saved, tmp_path):
    config = saved[1]["config"]
    packed = {"compress_type": zipfile.ZIP_DEFLATED}  # as an archiver may do
    write_keras(tmp_path / "bomb.keras", saved, config, b"\0" * (80 << 20), **packed)
    with pytest.raises(ValueError, match=r"expand at most 10 times. Received: .* for 83886080"):
        keras.models.load_model(tmp_path / "bomb.keras")
    write_keras(tmp_path / "packed.keras", saved, config, **packed)
    keras.models.load_model(tmp_path / "packed.keras")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_weights_that_are_damaged(saved, tmp_path, method):
    """Keras ignores the checksum, and from Python 3.12 on returns a model with other weights."""
    path = tmp_path / "damaged.keras"
    write_keras(path, saved, saved[1]["config"], compress_type=method)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("model.weights.h5")
    content = bytearray(path.read_bytes())
    content[info.header_offset + info.compress_size // 2] ^= 1
    path.write_bytes(content)
    message = "`filepath` must be a whole file .*damaged.keras, whose weights are damaged"
    with pytest.raises(ValueError, match=message):
        keras.models.load_model(path)


def test_no_file_is_read(saved, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("[PAD]\n[END]\n[UNK]\n")
    for change in that_name_a_file(secret):
        config = copy.deepcopy(saved[1]["config"])
        change(config)
        write_keras(tmp_path / "bad.keras", saved, config)
        with pytest.raises(ValueError):
            keras.models.load_model(tmp_path / "bad.keras", safe_mode=True)
        with pytest.raises(ValueError):
            kmm.MultiModel.from_config(config)
    assert str(tmp_path / "bad.keras") in opened
    # The path of the first two is taken for letters, and a file by itself is not opened.
    assert str(secret) not in opened[opened.index(str(tmp_path / "bad.keras")) :]


def test_the_limit_without_a_file_is_an_attribute(saved, monkeypatch):
    config = saved[1]["config"]
    monkeypatch.setattr(kmm.MultiModel, "max_config_weights", 1000)
    with pytest.raises(ValueError, match="at most 1000 weights, which `MultiModel.max_config_w"):
        kmm.MultiModel.from_config(config)
    kmm.MultiModel.from_preset(saved[0] / "preset")  # whose file says how many there are
    monkeypatch.setattr(kmm.MultiModel, "max_config_weights", None)
    model = kmm.MultiModel.from_config(config)
    assert model.get_config()["tasks"] == config["tasks"]
    assert keras.layers.Layer.add_weight.__module__.startswith("keras.")


def test_numbers_that_models_have_pass():
    config = {"tasks": [{}], "modalities": [{}], "hidden_dim": 1536, "x": [[{"num_experts": 240}]]}
    config_limits.check_config({**config, "seed": 2**62, "num_blocks": np.int64(8)})
    with pytest.raises(ValueError, match="num_blocks=nan"):
        config_limits.check_config({**config, "num_blocks": float("nan")})
