"""Tasks that leave the library: each file is run in a process that cannot import it."""

import contextlib
import importlib
import importlib.util
import io
import json
import sys
import threading
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_multimodel as kmm
from keras_multimodel.layers import ConvBlock, MoELayer
from tests.generation import writers
from tests.models.exported import BATCHES, EXAMPLES, RAW, ROWS, arrays_of, run_all, save
from tests.models.small_models import HIDDEN_DIM, build, make_tasks

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow"
)


@keras.saving.register_keras_serializable(package="tests")
class Bits(keras.layers.Layer):
    """A block of an operation that other runtimes lack."""

    def call(self, inputs):
        return inputs + tf.cast(tf.bitwise.invert(tf.cast(inputs, "int32")), inputs.dtype)


@keras.saving.register_keras_serializable(package="tests")
class Sums(keras.layers.Layer):
    """A block that sees what is before, and has no `step`."""

    def call(self, inputs):
        return inputs + keras.ops.tanh(keras.ops.cumsum(inputs, axis=1))


@pytest.fixture(scope="module")
def model():
    tasks = {task.name: task for task in writers.make_tasks()}
    tasks["text"].max_input_length = 40
    # Dilated: lengths are rounded up in the graph, which converters have had wrong.
    conv_block = ConvBlock(HIDDEN_DIM, (3, 3), (1, 4), dropout=0.0)
    return writers.build([tasks[name] for name in RAW], conv_block=conv_block)


@pytest.fixture(scope="module")
def row_model():
    """Rows with parts, under names that TensorFlow takes for no arguments."""
    tasks = {task.name: task for task in writers.make_tasks()}
    words, trees = tasks["parse"].inputs, tasks["parse"].targets
    image, kinds = tasks["digits"].inputs, tasks["digits"].targets
    scaled = kmm.data.NumberPreprocessor(mean=2.0, scale=3.0)
    number = kmm.layers.NumberModality(HIDDEN_DIM, preprocessor=scaled)
    parts = {"picture": image, "class": kinds, "size": number}
    tasks = [
        kmm.Task("bäume", {"größe": number, "words": words}, trees, max_target_length=24),
        kmm.Task("price", parts, number),
    ]
    return writers.build(tasks, conv_block=Sums())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def raw_exports(model, row_model, folder):
    """SavedModels that take raw inputs, and what another process made of them."""
    for name, raw in RAW.items():
        model.export_task(name, folder / name)
        save(folder / f"{name}.raw.npz", inputs=raw)
    for name, batch in BATCHES.items():
        row_model.export_task(name, folder / name)
        save(folder / f"{name}.raw.npz", **batch)
    names = [*RAW, *ROWS]
    run_all([folder / name for name in names])
    return {name: np.load(folder / f"{name}.raw.out.npz", allow_pickle=True) for name in names}


@pytest.fixture(scope="module")
def array_exports(model, folder):
    """Exports that take arrays, where Keras cannot be imported either."""
    formats = ["saved_model", "litert"]
    if importlib.util.find_spec("tf2onnx") and importlib.util.find_spec("onnxruntime"):
        formats.append("onnx")
    found = {}
    for form in formats:
        for name in ("text", "digits"):
            path = folder / f"{name}_{form}"
            model.export_task(name, path, form, raw=False)
            save(path.with_suffix(".arrays.npz"), inputs=arrays_of(model.tasks[name]))
            found[form, name] = path
    run_all(found.values())
    return {key: np.load(path.with_suffix(".arrays.out.npz")) for key, path in found.items()}


@pytest.mark.slow
@on_tensorflow
@pytest.mark.parametrize("name", RAW)
def test_raw_inputs_give_the_outputs_of_generate(model, raw_exports, name):
    found = raw_exports[name]["outputs"].tolist()
    assert [output.decode() for output in found] == list(model.generate(name, RAW[name]))
    if name != "digits":
        assert raw_exports[name]["ended"].tolist() == model.generate(name, RAW[name]).ended


@pytest.mark.slow
@on_tensorflow
def test_rows_with_parts_give_the_outputs_of_generate(row_model, raw_exports):
    trees = [tree.decode() for tree in raw_exports["bäume"]["outputs"].tolist()]
    assert trees == list(row_model.generate("bäume", ROWS["bäume"]))
    prices = row_model.generate("price", ROWS["price"])
    np.testing.assert_allclose(raw_exports["price"]["outputs"], prices, atol=1e-4)


@pytest.mark.slow
@on_tensorflow
@pytest.mark.parametrize("form", ["saved_model", "litert", "onnx"])
@pytest.mark.parametrize("name", ["text", "digits"])
def test_arrays_give_the_logits_of_the_model(model, array_exports, form, name):
    if (form, name) not in array_exports:
        pytest.skip("tf2onnx and onnxruntime are not installed")
    found, task = array_exports[form, name], model.tasks[name]
    x = {"inputs": arrays_of(task)}
    real = np.ones(len(x["inputs"]), bool)
    if name == "text":
        x["targets"], real = found["ids"], found["ids"] != 0
        texts = [task.targets.preprocessor.decode(row) for row in found["ids"]]
        assert texts == list(model.generate(name, RAW[name]))
    wanted = model.task_model(name)({name: x}, training=False)[name].numpy()
    if name == "text":
        real = real[:, : found["logits"].shape[1]]
        wanted = wanted[:, : real.shape[1]]
    np.testing.assert_allclose(found["logits"][real], wanted[real], atol=1e-4)
    if form == "saved_model" and name == "digits":
        np.testing.assert_array_equal(found["prediction"], wanted.argmax(-1))


@pytest.mark.slow
@on_tensorflow
def test_what_is_beside_the_model(model, array_exports, raw_exports, folder):
    about = {
        name: json.loads((folder / name / "export.json").read_text())
        for name in ("text", "digits", "text_saved_model", "text_litert", "digits_litert")
    }
    limits = {"max_length": 14, "padding_id": 0, "end_id": 1}
    text = {"task": "text", "format": "saved_model", **limits}
    assert about["text"] == {**text, "packages": ["tensorflow_text"]}
    assert about["text_saved_model"] == {**text, "packages": []}
    signatures = {"file": "model.tflite", "signatures": ["prefill", "step"], "input_length": 40}
    assert about["text_litert"] == {"task": "text", "format": "litert", **limits, **signatures}
    assert (
        about["digits"]["names"] == ["zero", "one", "two"] and "max_length" not in about["digits"]
    )
    assert about["digits_litert"]["signatures"] == ["serve"]
    proto = model.tasks["text"].inputs.preprocessor.proto
    for side in ("inputs", "targets"):
        assert (folder / "text_litert" / f"{side}.spm").read_bytes() == proto


@pytest.mark.slow
@on_tensorflow
def test_what_makes_the_arrays_is_beside_the_model(row_model, raw_exports, folder):
    about = json.loads((folder / "bäume" / "export.json").read_text())
    names = {"größe": "input_0", "words": "input_1", "given": "input_2"}
    assert about["inputs"] == names and about["task"] == "bäume"
    found = json.loads((folder / "bäume" / "preprocessors.json").read_text())
    scaled = {"size": 1, "mean": [2.0], "scale": [3.0], "logarithm": False}
    assert found["größe"] == {"class": "NumberPreprocessor", "config": scaled}
    # The vocabulary is a file of its own.
    assert found["words"] == {"class": "TextPreprocessor", "config": {"max_length": None}}
    trees = row_model.tasks["bäume"].targets.preprocessor
    assert found["targets"]["config"] == trees.get_config()


@pytest.mark.slow
@on_tensorflow
def test_parts_and_later_training(tmp_path):
    text = kmm.layers.TextModality(11, HIDDEN_DIM)
    size = kmm.layers.NumberModality(
        HIDDEN_DIM, preprocessor=kmm.data.NumberPreprocessor(mean=2.0, scale=3.0)
    )
    tasks = [kmm.Task("price", {"title": text, "size": size}, size, max_input_length=6)]
    model = build(tasks, num_encoder_blocks=1)
    model.export_task("price", tmp_path)
    loaded = tf.saved_model.load(str(tmp_path))
    rows = [{"title": np.array([3, 4, 1]), "size": 5.0}, {"title": np.array([7, 1])}]
    batch = {
        "title": tf.constant([[3, 4, 1], [7, 1, 0]]),
        "size": tf.constant([5.0, 0.0], "float64"),  # a reader's own form; titles are arrays
        "given": tf.constant([[True, True], [True, False]]),
    }
    wanted = model.generate("price", rows)
    found = loaded.signatures["serving_default"](**batch)
    np.testing.assert_allclose(found["outputs"], wanted, atol=1e-4)
    for weight in model.weights:  # the export has weights of its own
        weight.assign(keras.ops.zeros_like(weight))
    again = loaded.signatures["serving_default"](**batch)
    np.testing.assert_array_equal(again["outputs"], found["outputs"])


@on_tensorflow
def test_gaps_in_onnx(tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    numbers = kmm.layers.NumberModality(HIDDEN_DIM, size=2)
    model = build([kmm.Task("size", numbers, numbers)], num_encoder_blocks=1, moe=None)
    model.export_task("size", tmp_path, "onnx")
    x = np.array([[1.0, 2.0], [np.nan, 3.0]], "float32")
    (found,) = runtime.InferenceSession(tmp_path / "serve.onnx").run(None, {"inputs": x})
    wanted = model({"size": {"inputs": x}}, training=False)["size"]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@on_tensorflow
def test_errors(model, tmp_path, monkeypatch):
    export = model.export_task
    with pytest.raises(ValueError, match="`task` must be one of .*Received: task='speak'"):
        export("speak", tmp_path)
    with pytest.raises(ValueError, match="`format` must be one of .*Received: format='tflite'"):
        export("text", tmp_path, "tflite")
    with pytest.raises(ValueError, match="`max_length` must be None for task 'digits'.*length=3"):
        export("digits", tmp_path, max_length=3)
    with pytest.raises(ValueError, match="`max_length` must .*Received: max_length=0"):
        export("text", tmp_path, max_length=0)
    with pytest.raises(ValueError, match='`input_length` must be None but for format="litert".*=7'):
        export("text", tmp_path, input_length=7)
    with pytest.raises(ValueError, match="`input_length` must be None but.*task='digits'"):
        export("digits", tmp_path, "litert", input_length=7)
    with pytest.raises(ValueError, match="`input_length` must be given .*'parse'.*=None"):
        export("parse", tmp_path, "litert")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(ValueError, match=f"`path` must be a folder, .*{path}', a file"):
            export("digits", path)
    for path in ("", None, 3):
        with pytest.raises(ValueError, match=f"`path` must be the path .*Received: path={path!r}"):
            export("digits", path)
    with pytest.raises(ValueError, match=r"`task` must be one of .*Received: task=\['digits'\]"):
        export(["digits"], tmp_path)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "keras-multimodel\[export\]"'):
        export("digits", tmp_path, "onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="exports are written on it")
def test_other_backends(model, tmp_path):
    with pytest.raises(ValueError, match="the backend must be TensorFlow, .*Received: backend='"):
        model.export_task("digits", tmp_path)


@on_tensorflow
def test_what_other_runtimes_cannot_express(tmp_path):
    moe = MoELayer(HIDDEN_DIM, 4, 2, router="expert_choice")
    chosen = build(make_tasks("topic"), moe=moe, num_encoder_blocks=1)
    with pytest.raises(ValueError, match='must be "saved_model" where.*format=.onnx.*: a router'):
        chosen.export_task("topic", tmp_path, "onnx")
    bits = build(make_tasks("topic"), conv_block=Bits(), moe=None, num_encoder_blocks=1)
    for form, lengths in (("litert", {"input_length": 8}), ("onnx", {})):
        if form == "onnx":
            pytest.importorskip("tf2onnx")
        (tmp_path / "export.json").write_text("{}")  # of an export that is replaced
        with pytest.raises(ValueError, match=f"'topic' must consist of operations that '{form}'"):
            bits.export_task("topic", tmp_path, form, **lengths)
        assert not (tmp_path / "export.json").exists()
    small = build(make_tasks("topic"), num_encoder_blocks=1)
    small.quantize("int8")
    with pytest.raises(ValueError, match='must be "saved_model" unless.*format=.litert.*: int8'):
        small.export_task("topic", tmp_path, "litert", input_length=8)


@pytest.mark.slow
@on_tensorflow
def test_the_server_takes_rows_and_arrays(
    row_model, raw_exports, array_exports, folder, monkeypatch
):
    pytest.importorskip("fastapi", reason="the example of a server needs FastAPI and uvicorn")
    pytest.importorskip("uvicorn", reason="the example of a server needs uvicorn")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    load = importlib.import_module("serve_export").load
    for name, batch in BATCHES.items():
        rows = [dict(zip(batch, row)) for row in zip(*batch.values())]
        if name == "price":
            rows = [{**row, "picture": {"b64": _base64(row["picture"])}} for row in rows]
        task, answer = load(folder / name)
        assert task == name
        found = json.loads(json.dumps(answer(rows)))
        if name == "bäume":
            assert found == list(row_model.generate(name, ROWS[name]))
        else:
            np.testing.assert_allclose(found, row_model.generate(name, ROWS[name]), atol=1e-4)
    answer = load(folder / "text_saved_model")[1]
    ids = answer([[5, 6, 1], [7, 1, 0]])
    assert [len(row) for row in ids] == [14, 14]
    assert answer([{"inputs": [5, 6, 1]}, {"inputs": [7, 1, 0]}]) == ids
    with pytest.raises(ValueError, match="must hold a SavedModel. Received: .*litert"):
        load(folder / "text_litert")


@pytest.mark.slow
@on_tensorflow
def test_the_server_answers(model, raw_exports, folder, monkeypatch):
    pytest.importorskip("fastapi", reason="the example of a server needs FastAPI and uvicorn")
    uvicorn = pytest.importorskip("uvicorn", reason="the example of a server needs uvicorn")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    app = importlib.import_module("serve_export").make_app([folder / "digits", folder / "text"])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]

    def call(task, body):
        address = f"http://127.0.0.1:{port}/v1/models/{task}:predict"
        request = urllib.request.Request(address, json.dumps(body).encode(), _JSON)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["predictions"]

    page = (EXAMPLES.parent / "docs" / "export.md").read_text()
    client = page.split("```python\n")[-1].split("```")[0]
    assert "urllib" in client
    try:
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(client.replace("8501", str(port)).replace("en_de", "text"), {})
        assert shown.getvalue().strip() == str(list(model.generate("text", ["Save the file."])))
        assert call("text", {"instances": RAW["text"]}) == model.generate("text", RAW["text"])
        files = [{"b64": _base64(file)} for file in RAW["digits"]]
        assert call("digits", {"instances": files}) == model.generate("digits", RAW["digits"])
        long = {"instances": ["the file " * 9]}
        one = {"instances": "the file"}
        bad = (("no", long, 404), ("digits", {}, 400), ("text", one, 400), ("text", long, 400))
        for task, body, code in bad:
            with pytest.raises(urllib.error.HTTPError) as error:
                call(task, body)
            assert error.value.code == code
        assert "must have at most 40 positions" in error.value.read().decode()
    finally:
        server.should_exit = True
        thread.join(10)


_JSON = {"Content-Type": "application/json"}


def _base64(content):
    return importlib.import_module("base64").b64encode(content).decode()
