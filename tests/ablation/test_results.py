import sys

import numpy as np
import pytest

from keras_multimodel.ablation import Results


def run(variant, seed, cost=None, **metrics):
    record = {"configuration": {"variant": variant, "seed": seed}, "metrics": metrics}
    return {**record, "cost": cost} if cost else record


RUNS = [
    # The seeds come in any order, and one has a run of one variant only.
    run("all", 2, {"parameters": 1200}, loss=1.5, accuracy=0.5),
    run("all", 1, {"parameters": 1200}, loss=1.0, accuracy=0.25),
    run("small", 1, {"parameters": 900}, loss=1.25, accuracy=0.25),
    run("small", 2, {"parameters": 900}, loss=1.625, accuracy=0.75),
    run("small", 3, {"parameters": 900}, loss=9.0),
    run("new", 1, loss=2.0),
]


def test_differences_are_paired_by_seed():
    results = Results(RUNS)
    found = results.difference("small", "loss")
    # 0.25 and 0.125: mean 0.1875, deviation 0.0884; t of one degree of freedom is 12.7062.
    assert (found.mean, found.count) == (0.1875, 2)
    assert found.high - found.mean == pytest.approx(12.7062 * 0.08839 / 2**0.5, rel=1e-4)
    other = results.difference("all", "loss", reference="small")
    assert (other.mean, other.low) == (-found.mean, pytest.approx(-found.high))
    assert results.values("small", "loss") == [1.25, 1.625, 9.0]
    # deviation 0.0884 against a difference of 0.1: some seeds are needed, not many.
    assert 5 < results.seeds_needed("small", "loss", 0.1) < 12
    with pytest.raises(ValueError, match="`variant` must have runs with two seeds.*Received: 1"):
        results.seeds_needed("new", "loss", 0.1)


def test_table_and_markdown():
    results = Results(RUNS, confidence=0.5)
    table = results.table()
    assert list(table.index) == ["all", "small", "new"]
    assert table.loc["all", "loss"] == 1.25
    assert table.loc["small", "loss difference"] == 0.1875
    assert table.loc["small", "loss low"] < 0.1875 < table.loc["small", "loss high"]
    assert np.isnan(table.loc["new", "accuracy"])
    lines = results.markdown(["loss"]).splitlines()
    assert lines[0] == "| variant | parameters | seeds | loss |"
    assert lines[2] == "| all | 1,200 | 2 | 1.250 |"
    # t of one degree of freedom at 50 % is 1: the interval is the mean -+ 0.0625.
    assert lines[3] == "| small | 900 | 3 | 3.958 (+0.188 [+0.125, +0.250]) |"
    assert lines[4] == "| new |  | 1 | 2.000 (+1.000) |"
    assert results.markdown("loss") == results.markdown(["loss"])
    assert Results(RUNS, reference="small").markdown().splitlines()[2].startswith("| small ")


def test_plot_has_a_panel_for_each_metric():
    figure = Results(RUNS[:4]).plot()
    assert [axis.get_title() for axis in figure.axes] == ["loss", "accuracy"]
    assert [axis.get_title() for axis in Results(RUNS[:4]).plot("loss").axes] == ["loss"]
    points = [sorted(line.get_xdata()) for line in figure.axes[0].lines]
    assert [0.125, 0.25] in points
    assert len(Results(RUNS[:2]).plot(["loss"]).axes) == 1


def test_pandas_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"pandas is needed .*\[ablation\]"):
        Results(RUNS).table()


def test_bad_arguments(tmp_path):
    results = Results(RUNS)
    cases = {
        "`records` must hold at least one run. Received: 0": lambda: Results([]),
        r"`records` must hold one run .* 2 runs like \('all', 2\)": lambda: Results(
            RUNS + RUNS[:1]
        ),
        "`reference` must be one of.*reference='none'": lambda: Results(RUNS, "none"),
        "`folder` must hold runs. Received: folder=.*": lambda: Results.read(tmp_path),
        "`metric` must be one of.*metric='bleu'": lambda: results.values("all", "bleu"),
        "`variant` must be one of.*variant='none'": lambda: results.values("none", "loss"),
        "`values` must have one number .*": lambda: results.difference("new", "accuracy"),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
    for content in ("{", "[]", "{}", '{"configuration": 3, "metrics": {}}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match="`folder` must hold nothing but runs .*other.json"):
            Results.read(tmp_path)
