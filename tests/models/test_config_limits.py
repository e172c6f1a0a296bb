"""Configs and files that anybody may have written: refused before memory is taken."""

import copy
import hashlib
import json
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.models import config_limits
from tests.models import small_models

KERAS = "keras.layers"
opened = []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model in both forms, and its config."""
    folder = tmp_path_factory.mktemp("saved")
    words = kmm.data.train_word_piece_preprocessor(["save the file"], 40)
    trees = kmm.data.train_tree_preprocessor(["(S (A a))"])
    text = kmm.layers.TextModality(words.vocabulary_size, 16, preprocessor=words)
    parse = kmm.layers.TextModality(trees.vocabulary_size, 16, preprocessor=trees)
    names = kmm.data.CategoryPreprocessor(["a", "b"])
    classes = kmm.layers.CategoryModality(2, 16, preprocessor=names)
    images = kmm.layers.ImageModality(16, (8, 8, 1), 1, kmm.data.ImagePreprocessor((8, 8)))
    audio = kmm.layers.AudioModality(16, 20, 2, preprocessor=kmm.data.AudioPreprocessor(8000, 20))
    pairs = {"parse": (text, parse), "digits": (images, classes), "topic": (audio, parse)}
    tasks = [kmm.Task(name, *nets) for name, nets in pairs.items()]
    model = small_models.build(tasks, num_encoder_blocks=1)
    model.save(folder / "model.keras")
    model.save_to_preset(folder / "preset")
    with zipfile.ZipFile(folder / "model.keras") as archive:
        return folder, json.loads(archive.read("config.json"))


@pytest.fixture(scope="module", autouse=True)
def hook():
    """Notes the files that are opened; an audit hook cannot be removed."""
    sys.addaudithook(lambda name, args: name == "open" and opened.append(str(args[0])))


def of(kind, **changes):
    """A change of the first object of a class, wherever it is in the config."""

    def change(config):
        waiting = [config]
        while waiting:
            part = waiting.pop(0)
            if isinstance(part, dict) and part.get("class_name") == kind:
                return part["config"].update(changes)
            waiting += list(part.values()) if isinstance(part, dict) else []
            waiting += part if isinstance(part, list) else []
        raise AssertionError(kind)

    return change


def of_model(**changes):
    return lambda config: config.update(changes)


def of_task(**changes):
    return lambda config: config["tasks"][0].update(changes)


def layer(name, **config):
    return {"class_name": name, "module": KERAS, "config": config, "registered_name": None}


def nested(depth):
    return {"deeper": nested(depth - 1)} if depth else 1


ABSURD = {
    "`num_encoder_blocks` must be at most 256.*=10000000": of_model(num_encoder_blocks=10**7),
    "`num_decoder_blocks` must be at most 256": of_model(
        num_decoder_blocks=10**9, conv_block=None, attention_block=None
    ),
    "`num_experts` must be at most 4096.*=100000000": of("MoELayer", num_experts=10**8),
    r"at most \d+ weights.*Received: more.*\(4, 16, 100000": of("MoELayer", intermediate_dim=10**9),
    "`hidden_dim` must be at most 1048576.*=1000000000": of_model(hidden_dim=10**9),
    r"at most \d+ weights.*\(1000000000, 16\)": of("TextModality", vocabulary_size=10**9),
    r"at most \d+ weights.*1000000": of("CategoryModality", num_classes=10**9),
    "`num_blocks` must be at most 24": of("AudioModality", num_blocks=10**7),
    "`kernel_sizes` must be at most 4096": of("ConvBlock", kernel_sizes=[10**9, 3]),
    "`dilation_rates` must be at most 4096": of("ConvBlock", dilation_rates=[1, 10**9]),
    r"at most \d+ weights.*\(16, 10000000000\)": of_model(conv_block=layer("Dense", units=10**10)),
    "`dilation_rate` must be at most 4096": of_model(
        conv_block=layer("Conv1D", filters=16, kernel_size=2, dilation_rate=10**9)
    ),
    "`sampling_rate` must be at most 1000000": of("AudioPreprocessor", sampling_rate=10**12),
    "table of 16777216 weights": of("AudioPreprocessor", frame_length=1e12),
    "`size` must have at most": of("ImagePreprocessor", size=[10**9, 10**9]),
    "`max_target_length` must be at most": of_task(max_target_length=10**12),
    "`config` must be nested at most 100 times": of_model(layer_states=nested(200)),
}
WRONG = {
    "`preprocessor` must be a function.*'hello'": of("TextModality", preprocessor="hello"),
    r"`preprocessor` must be a function.*\[1\]": of("TextModality", preprocessor=[1]),
    "`inputs` must be an integer of at least 0.*inputs=-1": of_task(inputs=-1),
    "`targets` must be at most 4.*targets=99": of_task(targets=99),
    "`inputs` must be an integer.*inputs=True": of_task(inputs=True),
    r"`targets` must be an integer.*targets=\[0\]": of_task(targets=[0]),
    "`loss` must be a loss or None.*'hello'": of_task(loss="hello"),
    "`metrics` must be a list or None.*'hello'": of_task(metrics="hello"),
    r"`config\['tasks'\]` must be a list.*\{'a': 1\}": of_model(tasks={"a": 1}),
    r"`config\['tasks'\]` must be a list.*None": of_model(tasks=None),
    r"`config\['modalities'\]` must be a list": of_model(modalities="hello"),
    "raised TypeError.*'int' object": of_model(encoder_groups=5),
    "raised AttributeError.*'list' object": of_model(layer_states=[1]),
    "raised KeyError: 'conv_block'": lambda config: config.pop("conv_block"),
    "`moe` must be a layer or None": of_model(moe=[1, 2]),
    "raised TypeError": of("AudioPreprocessor", frame_step="hello"),
    "raised TypeError.*": of("TreePreprocessor", symbols=5),
}


@pytest.mark.parametrize("message", [*ABSURD, *WRONG])
def test_configs_that_are_refused(saved, message):
    config = copy.deepcopy(saved[1]["config"])
    (ABSURD | WRONG)[message](config)
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        kmm.MultiModel.from_config(config)
    with pytest.raises(ValueError, match="`config` must be a dict. Received: list"):
        kmm.MultiModel.from_config([config])


def write_keras(path, saved, config, weights=None, **options):
    """Writes a `.keras` with another config."""
    with zipfile.ZipFile(saved[0] / "model.keras") as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("config.json", json.dumps({**saved[1], "config": config}))
        new.writestr("metadata.json", old.read("metadata.json"))
        name = "model.weights.h5"
        new.writestr(name, weights or old.read(name), **options)


def write_preset(folder, saved, config, weights=None):
    """Writes a preset with another config or other weights, and with checksums that fit."""
    folder.mkdir()
    contents = {
        "config.json": json.dumps({"format": "keras_multimodel 1", "model": config}).encode(),
        "weights.npz": weights or (saved[0] / "preset" / "weights.npz").read_bytes(),
    }
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    for name, content in {**contents, "checksums.json": json.dumps(sums).encode()}.items():
        (folder / name).write_bytes(content)


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
    changes = [
        of("WordPiecePreprocessor", vocabulary=str(secret)),
        of("TreePreprocessor", symbols=str(secret)),
        of("TextModality", preprocessor=layer("StringLookup", vocabulary=str(secret))),
        of_model(conv_block=layer("TFSMLayer", filepath=str(secret))),
        of("TextModality", preprocessor={**layer("f"), "class_name": "function", "config": "open"}),
        of(
            "TextModality",
            preprocessor={
                "module": "keras_hub.tokenizers",
                "class_name": "SentencePieceTokenizer",
                "config": {"proto": str(secret)},
                "registered_name": "keras_hub>SentencePieceTokenizer",
            },
        ),
    ]
    for change in changes:
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
