"""Tasks that read several parts, any of which may be missing."""

import keras
import nltk
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_multimodel as kmm
from keras_multimodel import MultiModel, Task
from keras_multimodel.layers import (
    CategoryModality,
    TextModality,
)
from tests.models.row_models import PARTS, make_batch, make_model, make_parts, make_tasks
from tests.models.small_models import HIDDEN_DIM, blocks, build, ids

NAN = float("nan")


def take(tree, rows):
    return keras.tree.map_structure(lambda x: x[rows], tree)


def numpy(x):
    return keras.tree.map_structure(lambda a: ops.convert_to_numpy(ops.cast(a, "float32")), x)


def close(a, b, **options):
    keras.tree.map_structure(lambda x, y: np.testing.assert_allclose(x, y, **options), a, b)


@pytest.fixture(scope="module")
def model():
    model = make_model()
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return model


def test_where_targets_are_read():
    parts = make_parts()
    kinds = CategoryModality(3, HIDDEN_DIM)
    assert Task("a", parts, kinds).read_from == "decoder"
    assert Task("a", {"title": parts["title"]}, kinds).read_from == "encoder"
    assert Task("a", parts, kinds, read_from="encoder").read_from == "encoder"
    assert Task("a", parts["title"], kinds, read_from="decoder").read_from == "decoder"


def test_what_stands_in_a_missing_part_does_not_matter(model):
    x, _ = make_batch([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 1]])
    outputs = numpy(model(x, training=False))
    other, _ = make_batch(x["product"]["given"], seed=1)
    missing = ~x["product"]["given"]
    for i, part in enumerate(PARTS):
        x["product"][part][missing[:, i]] = other["product"][part][missing[:, i]]
    close(numpy(model(x, training=False)), outputs, atol=1e-5)


def test_a_missing_part_is_as_one_that_is_cut_out(model):
    # A text of padding alone is no text; so are numbers that are all NaN.
    x, _ = make_batch([[1, 0, 1], [1, 1, 0], [1, 0, 0]])
    outputs = numpy(model(x, training=False))
    given = x["product"]["given"]
    x["product"]["title"][~given[:, 1]] = 0
    x["product"]["size"][~given[:, 2]] = NAN
    x["product"]["given"] = np.ones_like(given)
    close(numpy(model(x, training=False)), outputs, atol=1e-5)


@settings(deadline=None, max_examples=5)
@given(more=st.integers(1, 4), row=st.integers(0, 3))
def test_neither_padding_nor_other_rows_change_a_row(model, more, row):
    x, _ = make_batch([[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 1, 0]])
    outputs = numpy(model(x, training=False))
    alone = take(x, [row])
    alone["product"]["title"] = np.pad(alone["product"]["title"], [[0, 0], [0, more]])
    close(numpy(model(alone, training=False)), take(outputs, [row]), atol=1e-4)


def gradients(model, x, y):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True), training=True)
    found = tape.gradient(loss, model.trainable_variables)
    return [0.0 if g is None else np.array(tf.convert_to_tensor(g)) for g in found]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses TensorFlow's tape")
def test_gradients_with_gaps_are_those_of_rows_without_the_parts():
    # The same nets, and only the parts that the rows have: no gap, and no part to be one of.
    full = make_model(make_tasks()[:2])
    full.compile(loss_weights={"kind": 1.0, "price": 1.0})
    parts = {name: full.tasks["kind"].parts[name] for name in ("photo", "size")}
    tasks = [
        Task(name, parts, full.tasks[name].targets, rows="product") for name in ("kind", "price")
    ]
    cut = MultiModel(tasks, HIDDEN_DIM, body=full.body)
    cut.compile()
    x, y = make_batch([[1, 0, 1]] * 4)
    del x["caption"], y["caption"]
    y["kind"][1], y["price"][2] = -1, NAN
    found = dict(zip([v.path for v in full.trainable_variables], gradients(full, x, y)))
    less = {key: x["product"][key] for key in parts} | {"given": x["product"]["given"][:, ::2]}
    expected = gradients(cut, {"product": less}, y)
    for variable, gradient in zip(cut.trainable_variables, expected):
        np.testing.assert_allclose(found.pop(variable.path), gradient, atol=1e-6)
    assert all(np.abs(gradient).max() == 0 for gradient in found.values())  # of the title's net
    without = {name: np.delete(y[name], 1 if name == "kind" else 2, axis=0) for name in y}
    for name, row in (("kind", 1), ("price", 2)):
        outputs = numpy(full(x, training=False)[name])
        loss = full.tasks[name].loss()
        kept = float(loss(without[name], np.delete(outputs, row, axis=0)))
        assert float(loss(y[name], outputs)) == pytest.approx(kept, rel=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses TensorFlow's tape")
@pytest.mark.parametrize("name", ["kind", "price", "caption"])
def test_gradients_with_a_missing_target_are_those_without_its_row(name):
    task = next(task for task in make_tasks() if task.name == name)
    model = build([task], moe=None)
    model.compile()
    x, y = make_batch([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]])
    x, y = {key: x[key] for key in x if key in ("product", name)}, {name: y[name]}
    missing = {"kind": -1, "price": NAN, "caption": 0}
    y[name][2] = missing[name]
    found = gradients(model, x, y)
    without = keras.tree.map_structure(lambda array: np.delete(array, 2, axis=0), (x, y))
    for gradient, expected in zip(found, gradients(model, *without), strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("given", [[1, 1, 1], [1, 0, 1], [0, 1, 0]])
def test_what_is_written_depends_on_nothing_written_later(model, given):
    x, _ = make_batch([given] * 2)
    x["caption"]["targets"] = ids(np.random.default_rng(1), [4, 4], 11, 4)
    expected = numpy(model(x, training=False)["caption"])
    for position in range(1, x["caption"]["targets"].shape[1]):
        later = {key: np.array(array) for key, array in x["caption"].items()}
        later["targets"][:, position:] = 3 + (later["targets"][:, position:] + 1) % 4
        found = numpy(model({**x, "caption": later}, training=False)["caption"])
        # Position t is written from the targets before t.
        close(found[:, : position + 1], expected[:, : position + 1], atol=1e-6)
        assert np.abs(found - expected)[:, position + 1 :].max(initial=1) > 1e-4


def test_one_part_without_its_mark_is_the_single_net():
    image, kinds = make_parts()["photo"], CategoryModality(3, HIDDEN_DIM)
    single = make_model([Task("kind", image, kinds)])
    of_part = MultiModel([Task("kind", {"photo": image}, kinds)], HIDDEN_DIM, body=single.body)
    of_part.body.parts["photo"].embedding.assign(np.zeros(HIDDEN_DIM))
    x = make_batch([[1]] * 3)[0]["product"]
    photos = {"photo": x["photo"], "given": x["given"]}
    expected = numpy(single({"kind": {"inputs": x["photo"]}}, training=False))
    close(numpy(of_part({"kind": photos}, training=False)), expected, atol=1e-6)


def test_rows_without_any_attention_keep_their_parts_apart():
    model = make_model(attention_block=None)
    x, _ = make_batch([[1, 1, 1], [1, 1, 0]])
    outputs = numpy(model(x, training=False))
    x["product"]["title"] = np.pad(x["product"]["title"], [[0, 0], [0, 3]])
    close(numpy(model(x, training=False)), outputs, atol=1e-5)


def test_trains_and_a_batch_may_have_no_rows(model):
    x, y = make_batch([[1, 1, 1], [0, 1, 1]])
    logs = model.train_on_batch(x, y, return_dict=True)
    assert {"kind_loss", "price_mae", "caption_accuracy"} <= set(logs)
    outputs = numpy(model(take(x, slice(0)), training=False))
    assert {name: len(output) for name, output in outputs.items()} == dict.fromkeys(outputs, 0)


def test_generates_and_scores_rows_with_gaps(model):
    x, _ = make_batch([[1, 1, 1]])
    product = x["product"]
    rows = [
        {
            "photo": product["photo"][0],
            "title": product["title"][0, :3],
            "size": product["size"][0],
        },
        {"title": product["title"][0, :3], "size": [NAN, NAN], "photo": None},
        {"size": product["size"][0]},
    ]
    for task in ("kind", "price"):
        together = model.generate(task, rows)
        for row, output in zip(rows, together):
            np.testing.assert_allclose(model.generate(task, [row])[0], output, atol=1e-4)
    outputs = numpy(model({**x, "product": product}, training=False))
    np.testing.assert_allclose(model.generate("price", rows[:1])[0], outputs["price"][0], atol=1e-4)
    assert model.generate("kind", rows[:1]) == [outputs["kind"][0].argmax()]
    written = model.generate("caption", rows)
    assert written.ended and len(written) == 3
    scores = model.score("caption", rows, [np.array([3, 1])] * 3)
    assert scores.shape == (3,) and (scores < 0).all()


def test_a_tree_is_written_over_the_text_of_a_row(eagerly):
    sentences = ["a file", "the red file"]
    words = kmm.data.train_text_preprocessor(sentences, 40, "char", byte_fallback=False)
    text = TextModality(words.vocabulary_size, HIDDEN_DIM, preprocessor=words)
    trees = kmm.data.train_tree_preprocessor(["(S (NP (DT the) (NN file)))"])
    target = TextModality(trees.vocabulary_size, HIDDEN_DIM, preprocessor=trees)
    parts = {"photo": make_parts()["photo"], "title": text}
    model = make_model([Task("parse", parts, target, max_target_length=12)], num_mixer_blocks=0)
    photo = np.zeros((8, 8, 1), "uint8")
    rows = [{"photo": photo, "title": "the red file"}, {"title": "a file"}]
    for tree, row in zip(model.generate("parse", rows), rows, strict=True):
        assert nltk.Tree.fromstring(tree).leaves() == row["title"].split()
    with pytest.raises(ValueError, match="must have one text.*Received: 0 of .'photo'."):
        model.generate("parse", [{"photo": photo}])


def test_saves_loads_and_copies(model, tmp_path):
    x, _ = make_batch([[1, 1, 1], [0, 1, 1]])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    expected = numpy(model(x, training=False))
    close(numpy(loaded(x, training=False)), expected, atol=1e-6)
    assert (
        list(loaded.tasks["kind"].parts) == list(PARTS) and loaded.tasks["kind"].rows == "product"
    )
    single = model.task_model("price", copy=True)
    one = numpy(single({"product": x["product"]}, training=False))
    close(one, {"price": expected["price"]}, atol=1e-5)
    assert "photo_part" in [layer.name for layers in model.parts.values() for layer in layers]


TITLE, KINDS = TextModality(11, HIDDEN_DIM), CategoryModality(3, HIDDEN_DIM)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"inputs": {}}, "`inputs` of task 'a' must hold at least one part. Received: inputs={}"),
        ({"inputs": {"title": "text"}}, "must be a ModalityNet. Received: inputs.'title'.='text'"),
        ({"inputs": {"my title": TITLE}}, "names are valid Python identifiers.*'my title'"),
        ({"inputs": {"given": TITLE}}, "must not have a part named 'given'.*Received: .'given'"),
        ({"read_from": "mixer"}, "`read_from` must be one of.*Received: read_from='mixer'"),
        ({"targets": TITLE, "read_from": "encoder"}, "must be 'decoder'.*read_from='encoder'"),
        ({"rows": "my rows"}, "`rows` must be a valid Python identifier.*rows='my rows'"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Task(**{"name": "a", "inputs": {"title": TITLE}, "targets": KINDS, **arguments})


def test_refuses_rows_that_differ():
    other = TextModality(11, HIDDEN_DIM)
    one = Task("a", {"title": TITLE}, KINDS, rows="shop")
    for second, message in (
        (Task("b", {"title": other}, KINDS, rows="shop"), "same `rows` must be the same nets.*'b'"),
        (Task("shop", {"title": TITLE}, KINDS, rows="b"), "must not be the name of a task.*'shop'"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiModel([one, second], HIDDEN_DIM, **blocks())


def test_refuses_bad_batches_and_rows(model):
    x, y = make_batch([[1, 1, 1]])
    x["product"]["given"] = x["product"]["given"].astype("float32")
    with pytest.raises(ValueError, match=r"x\['product'\]\['given'\]` must be of the dtype bool"):
        model.evaluate(x, y, verbose=0)
    del x["product"]["given"]
    with pytest.raises(ValueError, match=r"missing: \['given'\]"):
        model.evaluate(x, y, verbose=0)
    for rows, message in (
        ([{"price": 1.0}], r"`inputs\[0\]` of task 'kind' must have keys.*Received: \['price'\]"),
        ([{}], r"must have at least one of .*Received: inputs\[0\]=\{\}"),
        ([{"title": [3, 1]}, 5], r"`inputs\[1\]` of task 'kind' must be a dict.*Received: int"),
        ("a title", "must be a list of dicts, or a DataFrame. Received: str"),
        ([{"size": [1.0, float("inf")]}], r"`inputs\[0\]\['size'\]` must be finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate("kind", rows)
