"""Tables: from cells with gaps to encoded rows of tasks."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_multimodel as kmm
from keras_multimodel.layers import CategoryModality, ImageModality, NumberModality, TextModality

WIDTH = 8
NAN = float("nan")
COLUMNS = {"photo": "image", "title": "text", "price": "number", "kind": "category"}


def png(value):
    return tf.io.encode_png(np.full((4, 4, 3), value, "uint8")).numpy()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(png(10))
    (tmp_path / "b.png").write_bytes(png(200))
    lines = [
        "photo,title,price,kind,note",
        'a.png,"red hat, new",9.5,hat,x',
        ",blue shoe,,shoe,",
        "b.png,,120,hat,",
        "b.png,old shoe,30,,",
    ]
    (tmp_path / "shop.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def make_tasks(table, **arguments):
    found = table.preprocessors(image_size=(4, 4))
    parts = {
        "photo": ImageModality(WIDTH, (4, 4, 3), num_blocks=1, preprocessor=found["photo"]),
        "title": TextModality(
            found["title"].vocabulary_size, WIDTH, preprocessor=found["title"], name="title"
        ),
    }
    kinds = CategoryModality(2, WIDTH, preprocessor=found["kind"], name="kinds")
    price = NumberModality(WIDTH, preprocessor=found["price"], name="prices")
    return [
        kmm.Task("price", parts, price, **arguments),
        kmm.Task("kind", parts, kinds, **arguments),
    ]


def first(dataset, rows=9):
    return tf.nest.map_structure(lambda x: x.numpy(), next(iter(dataset.padded_batch(rows))))


def test_each_task_gets_the_rows_that_have_its_target(folder):
    rows = kmm.data.table(folder / "shop.csv", COLUMNS)
    data = kmm.data.rows_to_tasks(rows, make_tasks(rows))
    kind, price = first(data["kind"]), first(data["price"])
    assert kind["targets"].tolist() == [0, 1, 0] and len(price["targets"]) == 3
    assert kind["given"].tolist() == [[True, True], [False, True], [True, False]]
    np.testing.assert_allclose(kind["photo"][0], 10.0)
    assert not kind["photo"][1].any() and not kind["title"][2].any()
    known = np.array([9.5, 120.0, 30.0])
    np.testing.assert_allclose(
        price["targets"][:, 0], (known - known.mean()) / known.std(), rtol=1e-5
    )


def test_tasks_on_the_same_rows_share_a_data_set(folder):
    rows = kmm.data.table(folder / "shop.csv", COLUMNS)
    data = kmm.data.rows_to_tasks(rows, make_tasks(rows, rows="product"))
    assert list(data) == ["product"]
    x, y = next(iter(kmm.data.mix(data, batch_size=4, shuffle=False)))
    assert set(x) == {"product"} and set(x["product"]) == {"photo", "title", "given"}
    assert y["kind"].numpy().tolist() == [0, 1, 0, -1]
    assert np.isnan(y["price"][:, 0]).tolist() == [False, True, False, False]


def test_a_frame_and_a_dict_are_as_the_file(folder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(folder / "shop.csv")
    tables = [
        kmm.data.table(folder / "shop.csv", COLUMNS),
        kmm.data.table(frame, COLUMNS, folder=folder),
        kmm.data.table({c: frame[c].tolist() for c in frame.columns}, COLUMNS, folder),
    ]
    with contextlib.suppress(ImportError):  # pyarrow is missing, or does not fit NumPy
        frame.to_parquet(folder / "shop.parquet")
        tables.append(kmm.data.table(folder / "shop.parquet", COLUMNS))
    tasks = make_tasks(tables[0])
    expected, *others = [first(kmm.data.rows_to_tasks(t, tasks)["kind"]) for t in tables]
    for other in others:
        for key, value in expected.items():
            np.testing.assert_array_equal(other[key], value)


def test_trains_from_a_frame_and_generates_for_one(folder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(folder / "shop.csv")
    frame["photo"] = [
        (folder / p).read_bytes() if isinstance(p, str) else None for p in frame.photo
    ]
    rows = kmm.data.table(frame, COLUMNS)
    sizes = {"num_encoder_blocks": 0, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    tasks = make_tasks(rows, rows="product")
    model = kmm.MultiModel(tasks, WIDTH, conv_block=None, moe=None, **sizes)
    model.compile(run_eagerly=True)
    train = kmm.data.mix(kmm.data.rows_to_tasks(rows, tasks), 4, steps=1)
    assert np.isfinite(model.fit(train, verbose=0).history["loss"][0])
    assert set(model.generate("kind", frame)) <= {"hat", "shoe"}


@pytest.mark.slow
def test_the_printed_python_trains_to_the_same_weights(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    sizes = {"num_encoder_blocks": 0, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    inferred = kmm.data.infer_columns("shop.csv")
    printed: dict = {}
    exec(capsys.readouterr().out, printed)  # noqa: S102

    def weights(columns):
        keras.utils.set_random_seed(0)
        # Four rows are too few for a proposal of classes; both sides are corrected alike.
        rows = kmm.data.table("shop.csv", {**columns, "kind": "category", "title": "text"})
        tasks = make_tasks(rows, rows="product")
        model = kmm.MultiModel(tasks, WIDTH, conv_block=None, moe=None, **sizes)
        model.compile(run_eagerly=True)
        model.fit(kmm.data.mix(kmm.data.rows_to_tasks(rows, tasks), 4, steps=1, seed=0), verbose=0)
        return model.get_weights()

    for found, expected in zip(weights(inferred), weights(printed["columns"]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_other_kinds_of_columns():
    rows = kmm.data.table(
        {
            "steps": [[1.0, 2.0], "[[3], [4], [5]]", None],
            "tags": ["a|b", ["b"], ""],
            "pixels": [np.zeros((2, 2), "uint8"), png(0), None],
            "sound": [b"RIFF", None, None],
            "size": ["1.5", 2, NAN],
        },
        {
            "steps": "series",
            "tags": "labels",
            "pixels": "image",
            "sound": "audio",
            "size": "number",
        },
    )
    examples = list(rows.dataset(["steps", "tags", "pixels", "sound"], ["size"]))
    assert [len(x["inputs"]["steps"]) for x in examples] == [2, 3]
    assert [x["inputs"]["tags"].numpy() for x in examples] == [b"a|b", b"b"]
    assert examples[1]["inputs"]["sound"].numpy() == b""
    assert [float(x["targets"]["size"]) for x in examples] == [1.5, 2.0]
    one = rows.dataset("tags", "size")
    assert [list(x["inputs"]) + list(x["targets"]) for x in one] == [["tags", "size"]] * 2
    found = rows.preprocessors(logarithm="size")
    assert found["tags"].names == ["a", "b"] and found["size"].logarithm
    assert found["steps"].mean == [3.0]


def test_a_bad_cell_of_any_kind_has_a_reason():
    cells = {
        "steps": ("series", [[1.0, 2.0], [[1, 2]], [1.0, float("inf")], 3.0, [[[1]]]]),
        "size": ("number", [1.0, "inf", [1, 2], "x", 2j]),
        "title": ("text", ["hat", ["hat"], {"a": 1}, b"\xff", np.array(["a"])]),
        "tags": ("labels", [b"a|b", [["a"]], 3, b"\xff", [b"\xff"]]),
        "photo": ("image", [png(0), np.zeros((2, 2, 5), "uint8"), "gone", 3, np.zeros((2, 2))]),
    }
    for column, (kind, values) in cells.items():
        table = kmm.data.table({column: values, "y": [1.0] * 5}, {column: kind, "y": "number"})
        problems = [x["problem"].numpy().decode() for x in table.dataset([column], ["y"])]
        assert problems[0] == ""
        for problem in problems[1:]:
            assert f"`{column}` must be " in problem, (column, problem)
    rows = kmm.data.table(
        {k: v for k, (_, v) in cells.items()}, {k: v[0] for k, v in cells.items()}
    )
    found = rows.preprocessors()  # of what is known
    assert found["steps"].mean == [1.5] and found["size"].mean == [1.0]
    assert found["tags"].names == ["a", "b"]


def test_gaps_and_names_of_other_types():
    gaps = [np.datetime64("NaT"), np.timedelta64("NaT"), np.float32("nan"), complex("nan")]
    assert all(map(kmm.gaps.is_gap, gaps)) and not kmm.gaps.is_gap(np.datetime64("2020-01-01"))
    rows = kmm.data.table({"kind": [np.float32(3), 3, 3.0, "3"]}, {"kind": "category"})
    assert rows.preprocessors()["kind"].names == ["3"]


@pytest.mark.parametrize(
    "cells, message",
    [
        ({"price": "9 euros"}, r"no number. `price` must be a number. Received: '9 euros'"),
        ({"photo": "gone.png"}, "unreadable. `photo` must be an image.*'gone.png'"),
        ({"photo": b"no image"}, "broken image.*8 bytes"),
        ({"price": float("inf")}, "not finite"),
        ({"kind": "glove"}, "must be one of the 2 classes.*'glove'"),
        ({"title": None, "photo": None}, r"must have at least one of \['photo', 'title'\]"),
    ],
)
def test_a_bad_cell_is_a_bad_example(cells, message):
    good = {
        "photo": [png(0)] * 2,
        "title": ["hat"] * 2,
        "price": [1.0, 2.0],
        "kind": ["hat", "shoe"],
    }
    tasks = make_tasks(kmm.data.table(good, COLUMNS), rows="product")
    bad = {name: [cells.get(name, values[0])] for name, values in good.items()}
    data = kmm.data.rows_to_tasks(kmm.data.table(bad, COLUMNS), tasks)
    with pytest.raises(tf.errors.OpError, match=f"example 0 of product, row 0.*{message}"):
        list(data["product"])


def test_files_and_frames_that_are_no_tables(tmp_path):
    path = tmp_path / "shop.csv"
    path.write_bytes("title\nhat\nGröße\n".encode("latin-1"))
    with pytest.raises(ValueError, match="`source` must be a table in UTF-8.*shop.csv, behind"):
        kmm.data.table(path, {"title": "text"})
    path.write_text(f"title\n{'x' * 200_000}\n")
    with pytest.raises(ValueError, match="`source` must be a table .*field larger"):
        kmm.data.table(path, {"title": "text"})
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([["a", "b"]], columns=["title", "title"])
    with pytest.raises(ValueError, match="must have different columns. Received: .'title', 'title"):
        kmm.data.table(frame, {"title": "text"})


def test_a_short_row_is_a_bad_example(tmp_path):
    path = tmp_path / "shop.tsv"
    path.write_text("title\tprice\nhat\t3\nshoe\nboot\t5\n")
    rows = kmm.data.table(path, {"title": "text", "price": "number"})
    text = TextModality(300, WIDTH, preprocessor=rows.preprocessors()["title"])
    number = NumberModality(WIDTH, preprocessor=rows.preprocessors()["price"])
    report = kmm.data.BadExamples()
    task = kmm.Task("price", {"title": text}, number)
    data = kmm.data.rows_to_tasks(rows, task, on_bad="skip", report=report)
    with pytest.warns(UserWarning, match="missing column"):
        assert len(list(data["price"])) == 2
    assert report.examples[0].place == f"{path}:3"


def test_infers_kinds_and_prints_them(capsys):
    frame = {
        "photo": ["a.png", None, "b.JPG"] * 10,
        "title": [f"a hat {i}" for i in range(30)],
        "price": [f"{i}.5" for i in range(30)],
        "stars": [1, 2, NAN] * 10,
        "kind": ["hat", "shoe", ""] * 10,
        "tags": ["a|b", "b", "a"] * 10,
        "series": [[1.0, 2.0]] * 30,
        "sound": ["x.flac"] * 30,
        "pixels": [np.zeros((2, 2), "uint8")] * 30,
        "file": [b"\x89PNG"] * 30,
        "names": [["a", "b"]] * 30,
        "empty": [None] * 30,
    }
    expected = {
        "photo": "image",
        "title": "text",
        "price": "number",
        "stars": "category",
        "kind": "category",
        "tags": "labels",
        "series": "series",
        "sound": "audio",
        "pixels": "image",
        "file": "image",
        "names": "labels",
    }
    assert kmm.data.infer_columns(frame) == expected
    printed: dict = {}
    exec(capsys.readouterr().out, printed)  # noqa: S102
    assert printed["columns"] == expected


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t: kmm.data.table(5, {}), "Received: int"),
        (lambda t: kmm.data.table("gone.csv", {}), "source='gone.csv'"),
        (lambda t: kmm.data.table({"a": []}, {"a": "text"}), "at least one row.*Received: none"),
        (lambda t: kmm.data.table({"a": [1]}, {}), r"`columns` must map.*Received: columns=\{\}"),
        (lambda t: kmm.data.table({"a": [1]}, {"b": "text"}), r"\['a'\]. Received: 'b'"),
        (lambda t: kmm.data.table({"a": [1]}, {"a": "date"}), "Received: columns.'a'.='date'"),
        (lambda t: t.preprocessors(logarithm=["kind"]), r"logarithm=\['kind'\]"),
        (lambda t: t.dataset(["size"], ["price"]), "`inputs` must be columns.*Received: 'size'"),
        (
            lambda t: kmm.data.rows_to_tasks(t, make_tasks(t), columns={"size": "price"}),
            "Received: columns={'size': 'price'}",
        ),
        (
            lambda t: kmm.data.rows_to_tasks(
                t, kmm.Task("kind", TextModality(9, WIDTH), CategoryModality(2, WIDTH))
            ),
            "must read parts.*Received: inputs=<TextModality",
        ),
    ],
)
def test_refuses(folder, call, message):
    with pytest.raises(ValueError, match=message):
        call(kmm.data.table(folder / "shop.csv", COLUMNS))


def test_drop_inputs_leaves_out_parts_in_training_and_keeps_one():
    drop = kmm.data.DropInputs(0.5)
    given = np.array([True, True, True, False])
    kept = np.array([drop(given, (0, i)).numpy() for i in range(300)])
    assert kept.any(axis=1).all() and not kept[:, 3].any()
    # P(kept) = 1/2, and 1/3 of the 1/8 where all would be dropped.
    np.testing.assert_allclose(kept[:, :3].mean(axis=0), 0.5 + 1 / 24, atol=0.1)
    np.testing.assert_array_equal(drop(given, (3, 4)), drop(given, (3, 4)))
    assert kmm.data.DropInputs(0.0)(given, (1, 2)).numpy().tolist() == given.tolist()
    for rate in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"Received: rate={rate}"):
            kmm.data.DropInputs(rate)
    with pytest.raises(ValueError, match="dtype=int"):
        drop(np.array([1, 0]), (1, 2))


def test_each_part_has_its_own_rate():
    both = np.array([True, True])
    kept = np.array([kmm.data.DropInputs((0.8, 0.4))(both, (0, i)).numpy() for i in range(500)])
    # P(kept) = 1 - rate, and half of the 0.32 where both would be dropped.
    np.testing.assert_allclose(kept.mean(axis=0), [0.2 + 0.16, 0.6 + 0.16], atol=0.06)
    always = np.array([kmm.data.DropInputs([1.0, 0])(both, (0, i)).numpy() for i in range(20)])
    assert always.tolist() == [[False, True]] * 20
    alone = kmm.data.DropInputs([1.0, 0.0])(np.array([True, False]), (1, 2))
    assert alone.numpy().tolist() == [True, False]
    with pytest.raises(ValueError, match="for each of 2 parts. Received: rate=.0.5."):
        kmm.data.DropInputs([0.5])(both, (1, 2))
    with pytest.raises(ValueError, match=r"Received: rate\[1\]=2"):
        kmm.data.DropInputs([0.5, 2])


def test_augments_parts_and_drops_them():
    examples = {
        "photo": np.ones((6, 2, 2, 1), "float32"),
        "size": np.ones((6, 2), "float32"),
        "given": np.ones((6, 2), bool),
        "targets": np.zeros(6, "int32"),
    }
    train = kmm.data.mix({"kind": tf.data.Dataset.from_tensor_slices(examples)}, batch_size=6)
    transforms = {"photo": lambda x, seed: x + 1.0, "given": kmm.data.DropInputs(1.0)}
    (x, y), *_ = kmm.data.augment(train, {"kind": transforms})
    assert (x["kind"]["photo"].numpy() == 2.0).all() and (x["kind"]["size"].numpy() == 1.0).all()
    assert x["kind"]["given"].numpy().sum(axis=1).tolist() == [1] * 6 and y["kind"].shape == (6,)
    (x, _), *_ = kmm.data.augment(train, {"kind": kmm.data.DropInputs(1.0)})
    assert x["kind"]["given"].numpy().sum() == 6
    with pytest.raises(ValueError, match="must be for parts of .*Received: .'title'"):
        kmm.data.augment(train, {"kind": {"title": kmm.data.DropInputs(1.0)}})


def test_lengths_budgets_and_reports_of_rows():
    def examples():
        for length in (2, 3, 5, 8) * 4:
            yield {
                "title": np.ones(length, "int32"),
                "size": np.ones(2, "float32"),
                "given": np.ones(2, bool),
                "targets": np.ones(1, "float32"),
            }

    signature = {
        "title": tf.TensorSpec((None,), "int32"),
        "size": tf.TensorSpec((2,), "float32"),
        "given": tf.TensorSpec((2,), "bool"),
        "targets": tf.TensorSpec((1,), "float32"),
    }
    data = tf.data.Dataset.from_generator(examples, output_signature=signature)
    mixed = kmm.data.mix({"price": data}, 2, lengths={"price": {"title": [4, 8]}})
    assert {x["price"]["title"].shape[1] for x, _ in mixed} <= {4, 8}
    for x, _ in kmm.data.mix({"price": data}, token_budget=16):
        assert np.prod(x["price"]["title"].shape) <= 16
    report = kmm.data.report(mixed, progress=False)
    assert list(report.tasks["price"].lengths) == ["title"]
    assert keras.tree.flatten(kmm.data.report({"price": data}, progress=False).rows())
    with pytest.raises(ValueError, match="must have the keys 'given', 'size', 'targets', 'title'"):
        kmm.data.mix({"price": data}, 2, lengths={"price": {"inputs": [4]}})


def test_numbers_and_truth_values_are_names_of_classes():
    """As in the table, so in `generate`: 2 is the class "2", and not the class of number 2."""
    shop = {"size": [1, 2.0, 3, NAN], "new": [True, False, None, np.True_], "price": [1, 2, 3, 4]}
    rows = kmm.data.table(shop, {"size": "category", "new": "category", "price": "number"})
    found = rows.preprocessors()
    assert found["size"].names == ["1", "2", "3"] and found["new"].names == ["False", "True"]
    for raw in (2, 2.0, "2", np.int64(2), tf.constant(2), np.float32(2)):
        assert int(found["size"](raw)) == 1, raw
    for raw in (True, np.True_, "True", tf.constant(True)):
        assert int(found["new"](raw)) == 1, raw
    copy = kmm.data.CategoryPreprocessor.from_config(found["size"].get_config())
    assert int(copy(3)) == 2 and copy.decode(2) == "3"
    for wrong in (0, 2.5, [1, 2]):
        with pytest.raises(ValueError, match="`raw` must be"):
            copy(wrong)
    plain = kmm.data.CategoryPreprocessor(["1", "2", "3"])
    assert int(plain(2)) == 2 and set(plain.get_config()) == {"names"}


def test_a_table_is_split_by_what_is_in_its_rows():
    shop = {"who": [i // 3 for i in range(600)], "n": list(range(600)), "note": ["x"] * 600}
    rows = kmm.data.table(shop, {"n": "number", "note": "text"})
    parts = rows.split(0.3, seed=1)
    numbers = [part.raw.values["n"] for part in parts]
    assert sorted(sum(numbers, [])) == shop["n"] and all(n == sorted(n) for n in numbers)
    # Of 600 draws the share is 5 standard deviations off at most.
    assert abs(len(parts[1]) / 600 - 0.3) < 5 * (0.3 * 0.7 / 600) ** 0.5
    assert parts[1].raw.places[0] == f"row {numbers[1][0]}" and len(parts[0]) == len(numbers[0])
    assert [*parts[0].preprocessors()] == ["n", "note"]
    more = {name: [*values, *values] for name, values in shop.items()}
    again = kmm.data.table(more, rows.columns).split(0.3, seed=1)[1].raw.values["n"]
    assert again == 2 * numbers[1]
    # A gap in a later row makes 3 of a DataFrame 3.0, and a file has "3".
    for as_read in (float, str):
        other = {**shop, "n": [*map(as_read, shop["n"])]}
        same = kmm.data.table(other, rows.columns).split(0.3, seed=1)[1].raw.places
        assert same == parts[1].raw.places
    assert rows.split(0.3, seed=2)[1].raw.values["n"] != numbers[1]
    sides = [set(part.raw.values["who"]) for part in rows.split(0.3, by="who")]
    assert all(sides) and not sides[0] & sides[1]
    for message, arguments in {
        "`test` must be between 0 and 1. Received: test=1": {"test": 1},
        "`seed` must be an integer.*0.5": {"seed": 0.5},
        "`by` must be columns of the table.*Received: 'whom'": {"by": "whom"},
        "`test` must leave rows on both sides. .*600 rows": {"by": "note"},
    }.items():
        with pytest.raises(ValueError, match=message):
            rows.split(**arguments)


def test_encoded_rows_are_split_as_well():
    shop = {"n": list(range(40)), "title": [f"hat {i % 20}" for i in range(40)]}
    rows = kmm.data.table(shop, {"n": "number", "title": "text"})
    found = rows.preprocessors()
    title = TextModality(found["title"].vocabulary_size, WIDTH, preprocessor=found["title"])
    task = kmm.Task("n", {"title": title}, NumberModality(WIDTH, preprocessor=found["n"]))
    parts = kmm.data.split(kmm.data.rows_to_tasks(rows, task)["n"], 0.5)
    numbers = [
        {round(float(found["n"].decode(row["targets"]))) for row in part.as_numpy_iterator()}
        for part in parts
    ]
    assert numbers[0] | numbers[1] == {*range(40)} and all(numbers)
    titles = [{n % 20 for n in side} for side in numbers]  # equal titles stay together
    assert not titles[0] & titles[1]
