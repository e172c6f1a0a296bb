"""Configs and files that anybody may have written, and what is wrong with each."""

import hashlib
import json
import zipfile

import keras_multimodel as kmm
from tests.models import small_models

KERAS = "keras.layers"


def save_model(folder):
    """Saves a model in both forms; returns the folder, and the config of the `.keras` file."""
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


def that_name_a_file(path):
    """Returns changes that name a file which is not the model's."""
    return [
        of("WordPiecePreprocessor", vocabulary=str(path)),
        of("TreePreprocessor", symbols=str(path)),
        of("TextModality", preprocessor=layer("StringLookup", vocabulary=str(path))),
        of_model(conv_block=layer("TFSMLayer", filepath=str(path))),
        of("TextModality", preprocessor={**layer("f"), "class_name": "function", "config": "open"}),
        of(
            "TextModality",
            preprocessor={
                "module": "keras_hub.tokenizers",
                "class_name": "SentencePieceTokenizer",
                "config": {"proto": str(path)},
                "registered_name": "keras_hub>SentencePieceTokenizer",
            },
        ),
    ]


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
