import hashlib
import io
import json
import os
import random
import shutil
import zipfile

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.presets import folder as presets
from tests.models import small_models


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    text = kmm.data.train_text_preprocessor(["Save the file.", "Open the file."], 273)
    net = kmm.layers.TextModality(text.vocabulary_size, 16, preprocessor=text)
    digits = kmm.data.CategoryPreprocessor(["zero", "one", "two"])
    classes = kmm.layers.CategoryModality(3, 16, preprocessor=digits)
    tasks = [kmm.Task("copy", net, net), kmm.Task("topic", net, classes)]
    return small_models.build(tasks)


def weights_of(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def test_a_preset_is_the_model_again(model, tmp_path):
    model.save_to_preset(tmp_path / "new" / "preset", card="# Mine\n")
    loaded = kmm.MultiModel.from_preset(tmp_path / "new" / "preset")
    for here, there in zip(weights_of(model), weights_of(loaded), strict=True):
        np.testing.assert_array_equal(here, there)
    texts = ["Save the file.", "Open it."]
    for task in ("copy", "topic"):
        assert loaded.generate(task, texts, max_length=5) == model.generate(
            task, texts, max_length=5
        )
    assert (tmp_path / "new" / "preset" / "README.md").read_text() == "# Mine\n"
    assert not loaded.compiled


def test_what_compile_was_given_is_left_out(model, tmp_path):
    copy = keras.models.clone_model(model)
    copy.compile("adam", task_weighting=kmm.weighting.Uncertainty())
    assert len(copy.weights) > len(model.weights)
    copy.save_to_preset(tmp_path)
    loaded = kmm.MultiModel.from_preset(tmp_path)
    for here, there in zip(weights_of(copy), weights_of(loaded)):
        np.testing.assert_array_equal(here, there)
    assert len(loaded.weights) == len(model.weights)


def test_files_are_json_and_arrays(model, tmp_path):
    model.save_to_preset(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md",
        "checksums.json",
        "config.json",
        "weights.npz",
    }
    assert json.loads((tmp_path / "config.json").read_text())["model"]["name"] == model.name
    with np.load(tmp_path / "weights.npz") as file:  # without pickle
        assert sum(file[name].size for name in file.files) == model.count_params()
    assert "`copy`" in (tmp_path / "README.md").read_text()


def test_float16_takes_half_the_size(model, tmp_path):
    model.save_to_preset(tmp_path / "half", dtype="float16")
    model.save_to_preset(tmp_path / "whole")
    half, whole = ((tmp_path / name / "weights.npz").stat().st_size for name in ("half", "whole"))
    # Each of the arrays has a header of some 250 bytes.
    assert half < 0.5 * whole + 250 * len(model.weights)
    loaded = kmm.MultiModel.from_preset(tmp_path / "half")
    for here, there in zip(weights_of(model), weights_of(loaded), strict=True):
        # float16 has 11 bits: rounding changes a normal number by less than 2 ** -11.
        np.testing.assert_allclose(here, there, rtol=2**-11, atol=1e-7)


def test_what_float16_cannot_hold(model, tmp_path):
    net = kmm.layers.TextModality(9, 16)
    large = small_models.build([kmm.Task("copy", net, net)])
    net.embeddings.assign(net.embeddings + 1e5)
    with pytest.raises(ValueError, match=r"embeddings`, up to 100\d*\. Received: dtype='float16'"):
        large.save_to_preset(tmp_path, dtype="float16")


def test_float16_leaves_counters_whole(model, tmp_path):
    counter = next(w for w in model.weights if w.name == "expert_tokens")
    before = keras.ops.convert_to_numpy(counter)
    counter.assign(before + 1e5 + 1)  # beyond float16, and beyond its precision
    model.save_to_preset(tmp_path, dtype="float16")
    counter.assign(before)
    loaded = kmm.MultiModel.from_preset(tmp_path)
    found = next(w for w in loaded.weights if w.path == counter.path)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), before + 1e5 + 1)


def test_a_preset_is_replaced_and_an_edited_card_does_no_harm(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    model.save_to_preset(tmp_path, dtype="float16")
    model.save_to_preset(tmp_path)
    (tmp_path / "README.md").write_text("other words")
    kmm.MultiModel.from_preset(str(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_sixty_damaged_presets(model, tmp_path):
    good = tmp_path / "good"
    model.save_to_preset(good)
    draw = random.Random(1)
    files = ("config.json", "weights.npz", "checksums.json")
    for number in range(60):
        bad = shutil.copytree(good, tmp_path / f"bad{number}")
        file = bad / draw.choice(files)
        content = bytearray(file.read_bytes())
        place = draw.randrange(len(content))
        if number % 3 == 0:
            file.unlink()
        elif number % 3 == 1:
            file.write_bytes(content[:place])
        else:
            content[place] ^= 1 << draw.randrange(8)
            file.write_bytes(content)
        with pytest.raises(ValueError, match="`preset` must be a whole folder.*Received: preset="):
            kmm.MultiModel.from_preset(bad)


def test_other_folders(model, tmp_path):
    with pytest.raises(ValueError, match="preset='nowhere', where nowhere/checksums.json cannot"):
        kmm.MultiModel.from_preset("nowhere")
    with pytest.raises(ValueError, match="`preset` must be a whole folder"):
        kmm.MultiModel.from_preset(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`folder` must be a folder, .*file', a file"):
        model.save_to_preset(tmp_path / "file")
    with pytest.raises(ValueError, match="`dtype` must be one of .*dtype='int8'"):
        model.save_to_preset(tmp_path / "new", dtype="int8")
    with pytest.raises(ValueError, match="`card` must be Markdown, or None. Received: card=3"):
        model.save_to_preset(tmp_path / "new", card=3)
    with pytest.raises(ValueError, match="`folder` must be the path of a folder.*folder=None"):
        model.save_to_preset(None)
    for preset in (None, 3):
        with pytest.raises(ValueError, match=f"`preset` must be a whole.*preset='{preset}'"):
            kmm.MultiModel.from_preset(preset)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_vectors_of_bfloat16(tmp_path):
    text = kmm.layers.TextModality(7, 8, dtype="bfloat16")
    tasks = [kmm.Task("copy", text, text)]
    small = {"num_encoder_blocks": 0, "num_mixer_blocks": 0, "num_decoder_blocks": 0}
    blocks = {"conv_block": kmm.layers.ConvBlock(8, (3,), dtype="bfloat16"), "moe": None}
    attention = kmm.layers.AttentionBlock(8, num_heads=2, dtype="bfloat16")
    model = kmm.MultiModel(tasks, 8, attention_block=attention, **blocks, **small)
    vectors = [w for w in model.weights if w.dtype == "bfloat16" and len(w.shape) == 1]
    assert vectors
    vectors[0].assign(keras.ops.full(vectors[0].shape, 0.375))
    model.save_to_preset(tmp_path)
    loaded = kmm.MultiModel.from_preset(tmp_path)
    for found, weight in zip(loaded.weights, model.weights, strict=True):
        assert found.dtype == weight.dtype
        arrays = (keras.ops.convert_to_numpy(keras.ops.cast(w, "float32")) for w in (found, weight))
        np.testing.assert_array_equal(*arrays)


@pytest.mark.parametrize(
    "config,problem",
    [
        ({"format": "keras_multimodel 9"}, "format='keras_multimodel 9' instead of"),
        ({"layers": []}, "KeyError: 'format'"),
    ],
)
def test_formats_of_others(config, problem, tmp_path):
    presets.write_preset(tmp_path, config, [], "")
    with pytest.raises(ValueError, match=f"must fit this version .*{problem}"):
        kmm.MultiModel.from_preset(tmp_path)


def test_a_class_that_is_not_registered_is_not_imported(model, tmp_path):
    model.save_to_preset(tmp_path)
    config, weights = presets.read_preset(tmp_path)
    (tmp_path / "evil.py").write_text("raise RuntimeError('code of the folder ran')")
    text = json.dumps(config).replace('"class_name": "ConvBlock"', '"class_name": "Evil"')
    text = text.replace(
        '"registered_name": "keras_multimodel>ConvBlock"', '"registered_name": null'
    )
    text = text.replace('"module": "keras_multimodel.layers.conv_block"', '"module": "evil"')
    presets.write_preset(tmp_path, json.loads(text), weights, "")
    with pytest.raises(ValueError, match="the registered layers.*Could not locate class 'Evil'"):
        kmm.MultiModel.from_preset(tmp_path)


def test_weights_of_another_model(model, tmp_path):
    model.save_to_preset(tmp_path)
    config, weights = presets.read_preset(tmp_path)
    presets.write_preset(tmp_path, config, weights[:-1], "")
    with pytest.raises(ValueError, match="`preset` must fit .*zip"):
        kmm.MultiModel.from_preset(tmp_path)


def test_names_that_ship():
    assert set(kmm.presets.names()) <= {"eight_tasks_tiny"}


def forged(model, folder, weights):
    """A preset with other weights and checksums that fit them."""
    model.save_to_preset(folder)
    (folder / "weights.npz").write_bytes(weights)
    sums = json.loads((folder / "checksums.json").read_text())
    sums["weights.npz"] = hashlib.sha256(weights).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(sums))


def test_weights_that_declare_more_than_the_file_has(model, tmp_path):
    packed = io.BytesIO()
    np.savez_compressed(packed, np.zeros(10**7, "float32"))
    forged(model, tmp_path / "packed", packed.getvalue())
    stored = io.BytesIO()
    np.savez(stored, np.zeros(7, "float32"))
    head = b"'shape': (7,), }" + b" " * 9
    assert head in stored.getvalue()
    content = zipfile.ZipFile(stored).read("arr_0.npy").replace(head, b"'shape': (9999999999,), }")
    declared = io.BytesIO()
    with zipfile.ZipFile(declared, "w") as archive:
        archive.writestr("arr_0.npy", content)
    forged(model, tmp_path / "declared", declared.getvalue())
    pickled = io.BytesIO()
    np.savez(pickled, np.array([forged], object))
    forged(model, tmp_path / "pickled", pickled.getvalue())
    few = io.BytesIO()
    np.savez(few, np.zeros((3, 3), "float32"))
    forged(model, tmp_path / "few", few.getvalue())
    for name, problem in {
        "packed": "arrays are larger than the file",
        "declared": "arr_0.npy holds 28 bytes for shape .9999999999,",
        "pickled": "arr_0.npy holds",
        "few": "`preset` must fit this version",
    }.items():
        with pytest.raises(ValueError, match=problem):
            kmm.MultiModel.from_preset(tmp_path / name)


def test_what_is_no_regular_file_and_nested_json(model, tmp_path):
    for number, name in enumerate(("config.json", "weights.npz", "checksums.json")):
        folder = tmp_path / str(number)
        model.save_to_preset(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(ValueError, match=f"where .*{name} cannot be read"):
            kmm.MultiModel.from_preset(folder)
    (folder / "checksums.json").unlink()
    (folder / "checksums.json").write_text("[" * 10_000)
    with pytest.raises(ValueError, match="which is damaged: maximum recursion"):
        kmm.MultiModel.from_preset(folder)
