"""Studies of plain Keras models; `tests/test_readme.py` runs one of a `MultiModel`."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_multimodel as kmm
from keras_multimodel.ablation import Results, Study
from keras_multimodel.ablation.records import describe_model

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(48, 4)).astype("float32")
Y = np.abs(X).sum(axis=1)
DATA = ((X[:32], Y[:32]), (X[32:], Y[32:]))
VARIANTS = {"relu": {}, "linear": {"activation": None}, "deep": {"depth": 2}}


def build(units=62, activation="relu", depth=1):
    hidden = [keras.layers.Dense(units, activation) for _ in range(depth)]
    layers = [keras.Input((4,)), *hidden, keras.layers.Dropout(0.1), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


class Log:
    def __init__(self):
        self.values = {}

    def log(self, values, step):
        self.values.update({(key, step): value for key, value in values.items()})


def study(folder=None, **changed):
    arguments = {"seeds": 2, "metrics": ["mae"], "fit": {"epochs": 2, "batch_size": 16}}
    arguments = {"data": DATA, "variants": VARIANTS, "folder": folder, **arguments, **changed}
    return Study(build, **arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of a plain `keras.Sequential`, matched, with its folder and its log."""
    folder, logger = tmp_path_factory.mktemp("runs"), Log()
    matched = study(folder, match="parameters", width="units", logger=logger)
    return matched, matched.run(), folder, logger


@pytest.mark.slow
def test_variants_have_the_parameters_of_the_reference(finished):
    matched, results, _, _ = finished
    rows = {row["variant"]: row for row in results.rows()}
    # 62 units: 4 x 62 + 62, and 62 + 1 for the output. With two layers of u units: u^2 + 7 u + 1.
    assert rows["relu"]["parameters"] == rows["linear"]["parameters"] == 373
    units = matched.variants["deep"]["units"]
    assert rows["deep"]["parameters"] == units**2 + 7 * units + 1
    assert abs(rows["deep"]["parameters"] / 373 - 1) <= 0.02
    assert rows["relu"]["multiplications"] == 4 * 62 + 62
    assert [row["seeds"] for row in rows.values()] == [2, 2, 2]


def test_a_run_is_what_keras_would_have_trained(finished):
    _, results, _, _ = finished
    keras.utils.clear_session()
    keras.utils.set_random_seed(2)
    model = build()
    keras.utils.set_random_seed(2)
    model.fit(*DATA[0], epochs=2, batch_size=16, verbose=0)
    mae = model.evaluate(*DATA[1], verbose=0, return_dict=True)["mae"]
    assert results.values("relu", "mae")[1] == pytest.approx(mae, abs=1e-6)


def test_runs_are_small_files_that_say_where_they_come_from(finished):
    _, results, folder, _ = finished
    files = sorted(folder.glob("*.json"))
    assert [file.name.rpartition("-")[0] for file in files] == [
        f"{name}-{seed}" for name in sorted(VARIANTS) for seed in (1, 2)
    ]
    record = json.loads(files[0].read_text())
    assert record["configuration"]["arguments"]["depth"] == 2
    assert record["versions"]["keras"] == keras.__version__
    assert record["machine"]["cores"] and record["seconds"] > 0
    assert files[0].stat().st_size < 2000
    read = {row["variant"]: row for row in Results.read(folder, "relu").rows()}
    assert read == {row["variant"]: row for row in results.rows()}


def test_the_log_has_every_epoch_of_every_run(finished):
    logged = finished[3].values
    assert {("relu/seed 1/mae", 0), ("deep/seed 2/loss", 1)} <= set(logged)
    assert len(logged) == 3 * 2 * 2 * 2


def test_a_study_that_was_killed_runs_what_is_missing(tmp_path):
    class Trainer:  # a callable without a source that differs
        limit, runs = 3, 0

        def __call__(self, model, train, validation, callbacks, folder):
            assert folder.is_dir() and validation is None
            type(self).runs += 1
            if self.runs > self.limit:
                raise KeyboardInterrupt
            kernel = model.layers[0].kernel
            kernel.assign(kernel * train[1].mean())

    def metrics(model, held_out):
        return {"sum": float(keras.ops.sum(model.layers[0].kernel))}

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, fit=Trainer(), metrics=metrics).run()
    assert len(list(tmp_path.glob("*.json"))) == 3
    Trainer.limit = 100
    results = study(tmp_path, fit=Trainer(), metrics=metrics).run()
    # The killed run began again: 3 finished, 1 killed, 3 new. What it kept meanwhile is gone.
    assert Trainer.runs == 3 + 1 + 3
    assert not list(tmp_path.glob("*.state"))
    whole = study(tmp_path / "whole", fit=Trainer(), metrics=metrics).run()
    assert whole.rows() == results.rows()


@pytest.mark.parametrize(
    "changed",
    [
        {"fit": {"epochs": 2, "batch_size": 8}},
        {"data": ((X[:32], Y[:32] + 1), DATA[1])},
        {"version": 2},
        {"variants": {"relu": {"units": 61}}},
    ],
)
def test_another_configuration_is_another_run(tmp_path, changed):
    one = study(variants={"relu": {}})
    two = study(**{"variants": {"relu": {}}, **changed})
    one.plan(), two.plan()
    assert one._configuration("relu", 1) != two._configuration("relu", 1)
    again = study(variants={"relu": {}})
    again.plan()
    assert one._configuration("relu", 1) == again._configuration("relu", 1)


def test_the_optimizer_is_part_of_the_configuration():
    def described(rate):
        keras.utils.clear_session()
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(rate), "mse")
        return describe_model(model)

    assert described(0.1) == described(0.1) != described(0.2)


def test_data_of_a_function_validation_and_measures(tmp_path):
    seen = []

    def data(model, seed):
        seen.append(seed)
        train = tf.data.Dataset.from_tensor_slices(DATA[0]).shuffle(32, seed=seed).batch(16)
        return train, tuple(DATA[1]), tf.data.Dataset.from_tensor_slices(DATA[1]).batch(8)

    def metrics(model, held_out):
        x = np.concatenate([batch for batch, _ in held_out])
        return {"error": float(np.abs(np.asarray(model(x))[:, 0] - Y[32:]).mean())}

    logger = Log()
    found = study(data=data, metrics=metrics, variants={"one": {}}, seeds=[5], logger=logger).run()
    assert set(seen) == {5} and found.metrics == ["error"]
    assert ("one/seed 5/val_loss", 1) in logger.values  # the middle part is for `fit`


def test_seeds_are_added_until_decided(tmp_path):
    def fit(model, train, validation, callbacks, folder):
        """Trains nothing: what is measured is known."""

    def metrics(model, held_out):
        noise = float(keras.random.normal((), seed=int(keras.ops.sum(model.weights[0]) > 0)))
        return {"depth": len(model.layers) + 0.001 * noise}

    question = study(tmp_path, fit=fit, metrics=metrics, seeds=1)
    found = question.decide("depth", "deep", looks=(2, 3, 4))
    assert (found.verdict, found.looks) == ("higher", (2,))
    assert len(list(tmp_path.glob("deep-*.json"))) == 2
    assert not list(tmp_path.glob("linear-*.json"))
    same = question.decide("depth", "linear", margin=0.5, looks=(2, 3))
    assert same.verdict == "within the margin"
    with pytest.raises(ValueError, match="`metric` must be one of 'depth'.*'other'"):
        question.decide("other", "deep", looks=(2,))
    with pytest.raises(ValueError, match="`variant` must be one of.*'relu'"):
        question.decide("depth", "relu")


LAYER = keras.layers.Dense(1)


def shared(**arguments):
    model = keras.Sequential([keras.Input((4,)), LAYER])
    model.compile("sgd", "mse")
    return model


def test_layers_that_are_used_twice_are_refused():
    with pytest.raises(ValueError, match="`build` must make new layers .* the weight .*kernel"):
        Study(shared, DATA, {"one": {}, "two": {}}, 1, ["loss"]).run()


def test_a_folder_that_is_a_file_costs_no_run(tmp_path):
    (tmp_path / "file").write_text("")

    def fit(model, train, validation, callbacks, folder):
        raise AssertionError("a run has begun")

    for path in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(ValueError, match="`folder` must be a folder, or not exist yet"):
            study(folder=path, fit=fit, seeds=1).run()


def test_one_metric_is_a_list_of_one():
    assert study(metrics="mae").metrics == ["mae"]


def test_bad_arguments():
    ids = tf.data.Dataset.from_tensor_slices({"inputs": [[1, 2]], "targets": [[1, 2]]})
    mixture = kmm.data.mix({"copy": ids}, batch_size=1)
    cases = {
        r"`variants` must not be empty. Received: variants=\{\}": {"variants": {}},
        "`seeds` must be a positive integer. Received: seeds=0": {"seeds": 0},
        r"`seeds` must be different. Received: seeds=\[1, 1\]": {"seeds": [1, 1]},
        r"`variants` must map names .*variants=\['one'\]": {"variants": ["one"]},
        r"`variants` must map names .*variants=\{'one': None\}": {"variants": {"one": None}},
        "`logger` must have a method `log`. Received: logger=3": {"logger": 3},
        "`match` must be one of .*match='size'": {"match": "size"},
        r"`data` must be \(train, held_out\) .* Received: tuple of 1": {"data": (DATA[0],)},
        "`data` must be a function .*Received: a mixture": {"data": (mixture, mixture)},
    }
    for message, changed in cases.items():
        with pytest.raises(ValueError, match=message):
            study(**changed)
    with pytest.raises(ValueError, match="`width` must be an argument .* width='hidden_dim'"):
        study(match="parameters").plan()

    def fit(*arguments):
        pytest.fail("it was trained")

    with pytest.raises(ValueError, match="`metrics` must be among .*mae.* Received: 'other'"):
        study(metrics=["other"], variants={"one": {}}, seeds=1, fit=fit).run()
