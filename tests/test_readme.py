"""The README's code runs."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_multimodel as kmm

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def _small(code: str) -> str:
    """Returns the code with less to train: what is tested is that it runs."""
    code = code.replace("epochs=10", "epochs=1").replace("epochs=3", "epochs=1")
    code = code.replace("moe=", "num_encoder_blocks=1, num_decoder_blocks=1, moe=")
    return code.replace("num_experts=60", "num_experts=4").replace(
        "batch_size=32)", "batch_size=32, steps=2)"
    )


def _write_own_data(folder):
    """Writes 40 pairs and 40 images of two classes, with one bad example each."""
    rows = [f"question {i}\tanswer {i % 3}" for i in range(40)]
    (folder / "pairs.tsv").write_text("\n".join([*rows, "no answer"]))
    for index in range(40):
        name = ("rose", "tulip")[index % 2]
        (folder / "flowers" / name).mkdir(parents=True, exist_ok=True)
        picture = tf.io.encode_jpeg(tf.fill([40, 30, 3], tf.cast(index, tf.uint8)))
        (folder / "flowers" / name / f"{index}.jpg").write_bytes(picture.numpy())
    (folder / "flowers" / "rose" / "broken.jpg").write_bytes(b"no image")


def _examples(inputs, targets):
    return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": targets}).repeat(2)


def test_first_model_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    ids = random.integers(3, 8000, (32, 6)).astype("int32")
    names = {
        "kmm": kmm,
        "keras": keras,
        "digits": _examples(np.zeros((32, 28, 28, 3), "float32"), np.arange(32) % 10),
        "speech": _examples(random.normal(size=(32, 1000)).astype("float32"), ids),
        "pairs": _examples(ids, ids),
    }
    code = _small(BLOCKS[0]).replace('["Save the file."]', "list(np.ones((1, 4), 'int32'))")
    exec(code, {**names, "np": np})  # noqa: S102
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert sorted(model.tasks) == ["digits", "en_de", "speech"]


def test_from_raw_data_to_a_task():
    names = {"kmm": kmm, "keras": keras}
    exec(_small(BLOCKS[2]), names)  # noqa: S102
    (translation,) = names["model"].generate("en_de", ["Save the file."], max_length=4)
    assert isinstance(translation, str)
    (code,) = [block for block in BLOCKS if "kmm.data.report" in block]
    exec(_small(code), names)  # noqa: S102
    assert "en_de  targets" in str(names["report"])


def test_task_weights():
    text = kmm.layers.TextModality(11, 8)
    tasks = [kmm.Task(name, inputs=text, targets=text) for name in ("en_de", "de_en")]
    model = kmm.MultiModel(
        tasks, 8, kmm.layers.ConvBlock(8, (3, 3)), None, None, num_encoder_blocks=1
    )
    ids = np.random.default_rng(0).integers(2, 11, (8, 5)).astype("int32")
    data = kmm.data.mix({task.name: _examples(ids, ids) for task in tasks}, batch_size=8)
    names = {"kmm": kmm, "keras": keras, "model": model, "data": data}
    (code,) = [block for block in BLOCKS if "task_weighting" in block]
    exec(code, names)  # noqa: S102
    assert len(names["history"].history["en_de_weight"]) == 2


@pytest.mark.filterwarnings("ignore:Bad examples were skipped")
def test_data_of_ones_own_become_tasks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _write_own_data(tmp_path)
    (code,) = [block for block in BLOCKS if "image_folder" in block]
    assert len([line for line in code.splitlines() if line]) < 20
    exec(_small(code), {"kmm": kmm})  # noqa: S102
    table = capsys.readouterr().out
    assert re.search(r"missing column +1  pairs.tsv:41\n", table)
    assert re.search(r"broken image +1  flowers/rose/broken.jpg\n", table)


def test_mixing_and_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = next(block for block in BLOCKS if "kmm.data.Position()" in block)
    random = np.random.default_rng(0)
    ids = random.integers(3, 50, (32, 6)).astype("int32")
    text = kmm.layers.TextModality(50, 16)
    image = kmm.layers.ImageModality(16, num_blocks=1)
    tasks = [
        kmm.Task("digits", inputs=image, targets=kmm.layers.CategoryModality(10, 16)),
        kmm.Task("en_de", inputs=text, targets=text),
    ]
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0, "num_decoder_blocks": 0}
    model = kmm.MultiModel(tasks, 16, attention_block=None, moe=None, **sizes)
    model.compile("adam")
    names = {
        "kmm": kmm,
        "model": model,
        "digits": _examples(np.zeros((32, 8, 8, 3), "float32"), np.arange(32) % 10),
        "pairs": _examples(ids, ids),
    }
    exec(_small(code), names)  # noqa: S102
    assert (tmp_path / "runs" / "two_tasks" / "state.npz").is_file()
    assert model.optimizer.iterations == 4  # an epoch: two tasks of 64 examples, 32 a step
