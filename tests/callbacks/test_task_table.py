"""The table of tasks, in a terminal, a file and a notebook."""

import io
import math
import re
import sys
import types

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.callbacks import TaskTable, task_table
from keras_multimodel.callbacks.task_records import TaskRecords
from tests.models.small_models import build, make_batch, make_tasks

EIGHT = ["digits", "emoji", "speech", "parse", "en_de", "de_en", "en_fr", "fr_en"]


def direction(key):
    return "up" if key.endswith("accuracy") else "down" if re.search("loss|perp", key) else None


def logs_of(tasks, value, validated=True, **more):
    """Returns logs of every measure, all of one value; accuracies are `1 - value / 10`."""
    found = {"loss": value, "encoder_experts_min_load": 0.25, "encoder_experts_max_load": 2.5}
    for task in tasks:
        found |= {f"{task}_loss": value, f"{task}_log_perplexity": value}
        found[f"{task}_accuracy"] = 1 - value / 10
    if validated:
        found |= {f"val_{name}": number + 1 for name, number in found.items()}
    return {**found, **more}


def records_of(tasks, *logs):
    records = TaskRecords(list(tasks))
    for epoch, entry in enumerate(logs):
        records.add(epoch, entry, direction)
    return records


def test_the_best_of_a_column_is_marked():
    first, worse = logs_of("ab", 2.0), logs_of("ab", 2.5, val_b_accuracy=1.9)
    records = records_of("ab", first, worse)
    head, a, b = records.rows()
    assert head == ["task", "loss", "accuracy", "log_perplexity"]
    assert a == ["a", "2.500 /  3.500 ", "0.750 /  1.750 ", "2.500 /  3.500 "]
    assert b[2] == "0.750 /  1.900*"  # the only number that is better than in the first epoch
    assert records.best["val_a_loss"] == (3.0, 0) and records.best["val_b_accuracy"] == (1.9, 1)
    assert "encoder_experts_min_load" not in records.best


def test_training_decides_where_there_is_no_validation():
    records = records_of("a", logs_of("a", 3.0, False), logs_of("a", 2.0, False))
    assert records.rows()[1] == ["a", "2.000*", "0.800*", "2.000*"]
    assert records.note() == "epoch 2: * best so far"


def test_a_task_without_a_number_in_the_first_epoch_has_a_best():
    records = records_of("a", {"a_loss": math.nan}, {"a_loss": 2.0}, {"a_loss": 3.0})
    assert records.best == {"a_loss": (2.0, 1)}


def test_numbers_of_all_sizes():
    sizes = (0.0, 4.2e-5, 0.0012, 12.0, 123456.0)
    shown = [records_of("a", {"a_loss": x}).rows()[1][1].strip("* ") for x in sizes]
    assert shown == ["0.000", "4.2e-05", "0.001", "12.000", "1.235e+05"]


def test_learning_curves_are_of_a_measure_that_each_task_has():
    assert records_of("ab", logs_of("ab", 2.0)).curve() == "log_perplexity"
    numbers = {"a_loss": 1.0, "a_log_perplexity": 1.0, "b_loss": 1.0, "b_r_squared": 0.5}
    assert records_of("ab", numbers).curve() == "loss"
    assert records_of("b", {"loss": 1.0, "r_squared": 0.5}).curve() == "loss"


def test_epochs_between_two_validations_have_none():
    records = records_of("a", logs_of("a", 2.0), logs_of("a", 1.0, False))
    assert records.rows()[1][1] == "1.000 /      - "
    np.testing.assert_equal(records.history["val_a_loss"], [3.0, math.nan])
    late = records_of("a", logs_of("a", 2.0, False), logs_of("a", 1.0))
    np.testing.assert_equal(late.history["val_a_loss"], [math.nan, 2.0])


def test_a_key_belongs_to_the_longest_name_of_a_task():
    logs = {"loss": 3.0, "en_loss": 1.0, "en_de_loss": 2.0, "en_de_top_5_accuracy": 0.5}
    assert records_of(["en", "en_de"], logs).rows() == [
        ["task", "loss", "top_5_accuracy"],
        ["en", "1.000*", ""],
        ["en_de", "2.000*", "0.500*"],
    ]


def test_one_task_has_logs_without_its_name():
    logs = {"loss": 1.0, "accuracy": 0.5, "encoder_experts_max_load": 1.0, "learning_rate": 0.1}
    assert records_of(["copy"], logs).rows() == [
        ["task", "loss", "accuracy"],
        ["copy", "1.000*", "0.500*"],
    ]


@pytest.mark.parametrize("width", [80, 120, 40, 12])
def test_the_table_fits(width):
    more = {f"{task}_top_5_accuracy": 0.5 for task in EIGHT} | {
        f"{task}_{measure}": 12345.678 for task in EIGHT for measure in ("weight", "bleu", "chrf")
    }
    records = records_of(EIGHT, logs_of(EIGHT, 9.87654, **more))
    lines = records.text(width).splitlines()
    assert max(map(len, lines)) <= max(width, 23)  # a task and one measure always stay
    assert len(lines) == 1 + 8 + 2
    if width >= 80:
        assert lines[0].split()[:4] == ["task", "loss", "accuracy", "log_perplexity"]
        assert "experts' load over fair share: encoder 0.25 to 2.50" in lines[-1]
        assert [line.split()[0] for line in lines[1:9]] == EIGHT


def test_a_line_has_each_task():
    assert records_of("ab", logs_of("ab", 2.0), logs_of("ab", 1.5)).main() == (
        "log_perplexity: a 1.50/2.50, b 1.50/2.50"
    )
    assert records_of("ab", {"loss": 1.0}).main() == ""


def test_a_line_has_tasks_without_log_perplexity():
    price = {"price_loss": 0.25, "price_mae": 1234.4, "val_price_mae": 0.002, "price_r2": 0.9}
    kind = {"kind_loss": 1.0, "kind_log_perplexity": 0.5}
    assert records_of(["price", "kind"], {"loss": 2.0, **price, **kind}).main() == (
        "mae: price 1234/0.002 - log_perplexity: kind 0.50"
    )
    # Keras leaves the name of the only task out.
    assert records_of(["price"], {"loss": 0.25}).main() == "loss: price 0.25"


def test_a_task_may_be_called_like_a_stack():
    tasks = ["encoder", "decoder"]
    records = records_of(tasks, logs_of(tasks, 2.0))
    assert records.rows()[0] == ["task", "loss", "accuracy", "log_perplexity"]
    assert records.experts() == "experts' load over fair share: encoder 0.25 to 2.50"


@pytest.fixture(scope="module")
def model():
    model = build(make_tasks("topic", "copy"), moe=None, num_encoder_blocks=1)
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    return model


@pytest.fixture(autouse=True)
def no_lines_of_progress(monkeypatch):
    """A slow machine may take half a minute for what is one line elsewhere."""
    monkeypatch.setattr(task_table, "_NEXT_LINE", math.inf)


@pytest.fixture(scope="module")
def batch(model):
    return make_batch(model.tasks.values(), (3, 2))


def test_in_a_file_an_epoch_is_one_line(model, batch, capsys):
    x, y = batch
    table = TaskTable()
    stop = keras.callbacks.EarlyStopping("val_topic_log_perplexity", patience=9)
    model.fit(x, y, epochs=3, validation_data=batch, callbacks=[table, stop])
    first, second, third, *rest = capsys.readouterr().out.splitlines()
    for epoch, line in enumerate((first, second, third), 1):
        assert re.match(rf"Epoch {epoch}/3 - 1/1 - \d+s \d+ms/step - loss: [\d.]+ - val_l", line)
        assert re.search(r"- log_perplexity: copy \d\.\d\d/\d\.\d\d, topic \d", line)
        assert not set(line) & set("\r\b\x1b")
    assert "\n".join(rest) == str(table)
    assert len(rest) == 4
    assert table.records.history["topic_loss"] == model.history.history["topic_loss"]
    # Keras says what `mode="auto"` came to mean.
    assert stop.mode == "min"


def play(table, model, steps=4, epochs=2, verbose=1):
    """Calls a callback as `fit` does."""
    table.set_params({"verbose": verbose, "epochs": epochs, "steps": steps})
    table.set_model(model)
    table.on_train_begin()
    for epoch in range(epochs):
        table.on_epoch_begin(epoch)
        logs = logs_of(model.tasks, 3.0 - epoch)
        for step in range(steps):
            table.on_train_batch_end(step, {name: v for name, v in logs.items() if "val" != name})
        table.on_epoch_end(epoch, logs)
    table.on_train_end()


@pytest.mark.parametrize("verbose", [1, 0])
def test_a_long_epoch_in_a_file_shows_where_it_is(model, capsys, monkeypatch, verbose):
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(task_table, "time", types.SimpleNamespace(time=lambda: now.seconds))
    monkeypatch.setattr(task_table, "_NEXT_LINE", 30.0)
    table = TaskTable(display="lines")
    table.set_params({"verbose": verbose, "epochs": 1, "steps": 4})
    table.set_model(model)
    table.on_train_begin()
    table.on_epoch_begin(0)
    for step in range(4):
        now.seconds += 20
        table.on_train_batch_end(step, {"loss": 3.0})
    lines = capsys.readouterr().out.splitlines()
    shown = [f"Epoch 1/1 - {step}/4 - {20 * step}s 20000ms/step - loss: 3.0000" for step in (2, 4)]
    assert lines == (shown if verbose else [])


@pytest.mark.parametrize("width", [80, 120])
def test_in_a_terminal_a_short_bar_and_a_table(model, capsys, monkeypatch, width):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    table = TaskTable()
    play(table, model)
    printed = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)
    bars = [line for line in re.split("[\r\n]", printed) if "/step" in line]
    assert max(len(bar.rstrip("\b ")) for bar in bars) <= 80
    assert "loss: 3.0000 - val_loss: 4.0000" in bars[-2] + bars[len(bars) // 2 - 1] + printed
    assert not re.search("topic_loss|copy_accuracy", printed)
    assert printed.count("task ") == 2
    assert printed.endswith(f"{table.records.text(width)}\n")


def test_verbose_and_display(model, capsys):
    play(TaskTable(display="terminal"), model, verbose=0)
    assert capsys.readouterr().out == ""
    play(TaskTable(display="terminal"), model, verbose=2)
    assert "\r" not in capsys.readouterr().out
    table = TaskTable(display="lines", width=30)
    play(table, model, epochs=1)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert max(map(len, str(table).splitlines())) <= 30
    assert str(TaskTable()) == "no epoch yet"


@pytest.mark.parametrize("curves", [True, False])
def test_in_a_notebook_one_output_is_updated(model, capsys, monkeypatch, curves):
    shown = []

    def display(content, raw, display_id):
        shown.append(content)
        return types.SimpleNamespace(update=lambda content, raw: shown.append(content))

    ipython = types.ModuleType("IPython")
    ipython.version_info = (9, 0)  # which matplotlib asks for
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(kmm.callbacks.task_table, "_REFRESH", 0.0)
    play(TaskTable(curves=curves), model)
    assert capsys.readouterr().out == ""
    assert len(shown) == 2 * (4 + 1)
    assert "<progress value=1 max=4></progress> Epoch 1/2 - 1/4" in shown[0]["text/html"]
    last = shown[-1]
    assert "<td>topic</td>" in last["text/html"] and "<b>2.000 /  3.000*</b>" in last["text/html"]
    assert ("data:image/png;base64" in last["text/html"]) == curves
    assert "log_perplexity" in last["text/plain"]


def test_bad_arguments(model, monkeypatch):
    with pytest.raises(ValueError, match="`display` must be one of .*display='html'"):
        TaskTable(display="html")
    with pytest.raises(ValueError, match="`width` must be .*width=0"):
        TaskTable(width=0)
    monkeypatch.setitem(sys.modules, "IPython", None)
    with pytest.raises(ModuleNotFoundError, match="IPython"):  # not after the first epoch
        play(TaskTable(display="notebook"), model)
    plain = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model` must be a MultiModel.*type Sequential"):
        play(TaskTable(), plain)


def test_without_it_keras_prints_as_always(model, batch, capsys):
    model.fit(*batch, verbose=1)
    assert "topic_loss" in capsys.readouterr().out
    model.evaluate(*batch, callbacks=[TaskTable()])  # it shows trainings alone
    assert "topic_loss" in capsys.readouterr().out


def test_output_without_a_terminal_is_no_terminal(monkeypatch, model):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    play(TaskTable(), model, steps=50)
    lines = sys.stdout.getvalue().splitlines()
    assert len(lines) <= 2 * 50
    assert len(sys.stdout.getvalue()) < 2000
