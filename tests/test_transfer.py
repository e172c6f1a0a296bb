import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.ablation import Results
from keras_multimodel.transfer import Matrix, measure, variants


def record(variant, seed, **metrics):
    return {"configuration": {"variant": variant, "seed": seed}, "metrics": metrics}


def results(effect, seeds=3):
    """Returns runs of three tasks; `effect[helper, helped]` is what the helper takes off."""
    runs, random = [], np.random.default_rng(0)
    for seed in range(seeds):
        base = {name: 1.0 + random.normal() for name in "abc"}
        for name, arguments in variants("abc").items():
            names = arguments["tasks"]
            metrics = {
                helped: base[helped]
                - sum(effect.get((helper, helped), 0.0) for helper in names if helper != helped)
                + 0.01 * random.normal()
                for helped in names
            }
            runs.append(record(name, seed, **metrics))
    return Results(runs)


def test_the_matrix_finds_who_helps_whom():
    effect = {("a", "b"): 0.5, ("b", "a"): -0.5, ("c", "a"): 0.3}
    matrix = Matrix(results(effect))
    assert matrix.tasks == ["a", "b", "c"]
    found = {pair: matrix.verdict(*pair) for pair in matrix.gains}
    assert len(found) == 6
    assert found["a", "b"] == "helps" and found["b", "a"] == "hurts" and found["c", "a"] == "helps"
    assert found["a", "c"] == found["b", "c"] == found["c", "b"] == "cannot tell"
    assert matrix.gains["a", "b"].mean == pytest.approx(0.5, abs=0.05)
    # With one seed nothing is certain, however large.
    alone = Matrix(results(effect, seeds=1))
    assert {alone.verdict(*pair) for pair in alone.gains} == {"cannot tell"}
    assert "[" not in alone.markdown()


def test_the_heat_map_shows_what_is_not_known():
    figure = Matrix(results({("a", "b"): 0.5, ("b", "a"): -0.5})).plot()
    image = figure.axes[0].images[0].get_array()
    # The helper of a row to the task of a column, over the largest of the column.
    assert image[0, 1] == 1.0 and image[1, 0] == -1.0
    assert image.mask.sum() == 7
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 6 and sum("?" in text for text in texts) == 4


@pytest.fixture(scope="module")
def joint():
    text = kmm.layers.TextModality(12, hidden_dim=8)
    kinds = kmm.layers.CategoryModality(3, hidden_dim=8)
    tasks = [kmm.Task("copy", text, text), kmm.Task("kind", text, kinds)]
    blocks = {"num_encoder_blocks": 0, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    return kmm.MultiModel(tasks, 8, moe=None, conv_block=None, **blocks)


def data(model, seed):
    ids = np.random.default_rng(seed).integers(3, 12, (8, 4))
    outputs = {"copy": ids, "kind": ids[:, 0] % 3}
    y = {name: outputs[name] for name in model.tasks}
    x = {name: {"inputs": ids} for name in y}
    if "copy" in x:
        x["copy"]["targets"] = ids
    return (x, y), (x, y)


@pytest.mark.slow
def test_runs_start_from_the_joint_weights(joint, tmp_path):
    before = [keras.ops.convert_to_numpy(weight) for weight in joint.weights]

    def fit(model, train, validation, callbacks, folder):
        """Trains nothing."""

    def compile(model):
        model.compile("adam", run_eagerly=True)

    arguments = {"seeds": [4], "compile": compile, "fit": fit, "folder": tmp_path}
    matrix = measure(joint, data, **arguments)
    joint.compile(run_eagerly=True)
    x, y = data(joint, 4)[1]
    expected = joint.evaluate(x, y, verbose=0, return_dict=True)["copy_log_perplexity"]
    assert matrix.results.values("copy + kind", "copy") == [pytest.approx(expected, abs=1e-5)]
    # Untrained, a task scores the same alone and with another.
    assert [gain.mean for gain in matrix.gains.values()] == [pytest.approx(0.0, abs=1e-5)] * 2
    assert all(np.array_equal(a, b) for a, b in zip(before, joint.weights))
    assert len([*tmp_path.glob("*.json")]) == 3
    joint.weights[0].assign(joint.weights[0] + 1.0)
    measure(joint, data, **arguments)
    assert len([*tmp_path.glob("*.json")]) == 6
    joint.weights[0].assign(before[0])


def test_what_was_measured_in_some_variants_only_is_not_compared_with_others():
    found = results({("a", "b"): 0.5})
    rows = {row["variant"]: row for row in found.rows()}
    assert "b difference" not in rows["b"] and "a difference" in rows["a + b"]
    cells = {line.split(" | ")[0].strip("| "): line for line in found.markdown().splitlines()}
    assert cells["b"].count("[") == 0 and cells["a + b"].count("[") == 1
    assert len(found.plot().axes) == 3


def test_bad_arguments(joint):
    kind = joint.tasks["kind"]
    number = kmm.layers.NumberModality(8)
    numbers = joint.add_task(kmm.Task("size", kind.inputs, number))
    cases = {
        r"`tasks` must be two or more of \['copy', 'kind'\].*tasks=\['copy'\]": lambda: measure(
            joint, data, ["copy"]
        ),
        r"`tasks` must be two or more.*tasks=\['kind'\]": lambda: measure(joint, data, "kind"),
        "`tasks` must .*'other'": lambda: measure(joint, data, ["copy", "other"]),
        "`tasks` must be two .*'copy', 'copy'": lambda: measure(joint, data, ["copy", "copy"]),
        r"`tasks` must write ids or classes.*tasks=\['size'\]": lambda: measure(
            numbers, data, ["kind", "size"]
        ),
        r"`results` must have variants .*variants=\['a'\]": lambda: Matrix(
            Results([record("a", 1, a=1.0)])
        ),
        "`helper` and `helped` must be a pair .* a, d": lambda: Matrix(results({})).verdict(
            "a", "d"
        ),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
