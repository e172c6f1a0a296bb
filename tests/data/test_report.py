import importlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data


def sequences(lengths):
    """Inputs of these lengths, targets one longer, none of them zero."""
    examples = tf.data.Dataset.from_tensor_slices(list(lengths))
    return examples.map(
        lambda n: {"inputs": tf.fill([n], 3), "targets": tf.concat([tf.fill([n], 4), [1]], 0)}
    )


def images(size):
    return tf.data.Dataset.range(size).map(lambda i: {"inputs": tf.zeros((4, 4, 3)), "targets": i})


def test_lengths_of_examples():
    (task,) = data.report(sequences([1, 2, 9])).tasks.values()
    assert task.examples == 3
    assert task.lengths["inputs"].tolist() == [1, 2, 9]
    assert task.lengths["targets"].tolist() == [2, 3, 10]
    assert task.positions == {"inputs": 12, "targets": 15}
    assert task.padding("inputs") == 0.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_padding_of_batches(lengths, size):
    steps = [lengths[i : i + size] for i in range(0, len(lengths), size)]
    padded = sum(max(step) * len(step) for step in steps)
    report = data.report(data.batch(sequences(lengths), "a", size))
    task = report.tasks["a"]
    assert task.examples == len(lengths) and task.lengths["inputs"].tolist() == lengths
    assert task.padding("inputs") == pytest.approx(1 - sum(lengths) / padded)
    with_targets = padded + sum(max(step) * len(step) + len(step) for step in steps)
    real = 2 * sum(lengths) + len(lengths)
    assert report.padding == pytest.approx(1 - real / with_targets)


def test_frames_of_zeros_within_a_sequence_are_not_padding():
    frames = np.array([[[0, 1], [0, 0], [2, 0], [0, 0]], [[0, 0]] * 4], "float32")
    dataset = tf.data.Dataset.from_tensors(
        ({"speech": {"inputs": frames}}, {"speech": np.array([3, 4])})
    )
    task = data.report(dataset).tasks["speech"]
    assert task.lengths["inputs"].tolist() == [3, 0]
    assert task.padding("inputs") == 1 - 3 / 8


def test_tasks_of_a_dict_and_of_a_mixed_data_set():
    parts = {"text": sequences([2, 4, 6, 8]), "pictures": images(6)}
    report = data.report(parts)
    assert {name: task.examples for name, task in report.tasks.items()} == {
        "text": 4,
        "pictures": 6,
    }
    assert not report.tasks["pictures"].lengths
    mixed = data.report(data.mix(parts, batch_size=4))
    assert {name: task.examples for name, task in mixed.tasks.items()} == {
        "text": 6,
        "pictures": 6,
    }
    assert mixed.tasks["text"].seconds == mixed.tasks["pictures"].seconds > 0


def test_steps_without_rows_of_a_task():
    def step(a, b):
        x = {"a": np.ones((a, 2)), "b": np.ones((b, 3))}
        return {name: {"inputs": inputs} for name, inputs in x.items()}, {
            name: np.ones((len(inputs), 1), "int32") for name, inputs in x.items()
        }

    spec = (
        {name: {"inputs": tf.TensorSpec((None, None), "float64")} for name in "ab"},
        {name: tf.TensorSpec((None, 1), "int32") for name in "ab"},
    )
    steps = tf.data.Dataset.from_generator(
        lambda: (step(*rows) for rows in ((2, 0), (1, 0))), output_signature=spec
    )
    report = data.report(steps)
    assert [task.examples for task in report.tasks.values()] == [3, 0]
    assert str(report).splitlines()[-1].split()[:3] == ["b", "-", "0"]


def test_limits():
    endless = sequences([2, 4]).repeat()
    assert data.report(endless, max_examples=5).tasks["examples"].examples == 5
    assert data.report(endless, max_steps=7).tasks["examples"].examples == 7
    mixed = data.mix({"text": sequences([2, 4]), "pictures": images(6)}, batch_size=4).repeat()
    report = data.report(mixed, max_examples=10)
    assert [task.examples for task in report.tasks.values()] == [6, 6]  # 4, 8, 12
    assert data.report(mixed, max_steps=np.int64(2)).tasks["text"].examples == 4


def test_speed_is_that_of_the_data_set():
    def slow(n):
        import time

        time.sleep(0.01)
        return n

    def example(index):
        value = tf.ensure_shape(tf.numpy_function(slow, [index], tf.int64), ())
        return {"inputs": tf.fill([3], value), "targets": value}

    slowed = tf.data.Dataset.range(20).map(example)
    slow_task = data.report(slowed).tasks["examples"]
    quick_task = data.report(slowed.cache().prefetch(1).take(20)).tasks["examples"]
    assert 20 < slow_task.examples_per_second < 100
    assert quick_task.examples == 20


def test_table():
    report = data.report({"text & more": sequences([1, 2, 9]), "pictures": images(4)})
    head, inputs, targets, pictures = str(report).splitlines()
    columns = "task part examples min median mean p95 max padding per_s"
    assert head.split() == columns.split()
    # The 95th percentile lies 0.9 of the way from 2 to 9: 8.3.
    assert inputs.split()[2:-1] == "more inputs 3 1 2 4.0 8 9 0.0%".split()
    assert targets.split()[2:-1] == "more targets 3 2 3 5.0 9 10 0.0%".split()
    assert pictures.split()[:-1] == "pictures - 4 - - - - - -".split()
    assert report.rows()[0]["p95"] == pytest.approx(8.3)
    html = report._repr_html_()
    assert html.count("<tr>") == 4 and "text &amp; more" in html


def test_plot():
    batches = data.batch(sequences([1, 2, 9]), "text", 3)
    figure = data.report(batches).plot()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["text inputs, 56% padding", "text targets, 50% padding"]
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert sum(heights) == 3
    with pytest.raises(ValueError, match=r"a sequence to plot.*tasks=\['examples'\]"):
        data.report(images(3)).plot()


def test_progress_is_shown_for_long_runs(capfd, monkeypatch):
    module = importlib.import_module("keras_multimodel.data.report")  # not the function in it
    monkeypatch.setattr(module, "_QUICK", 0.0)
    data.report({"text": sequences([1, 2])})
    assert "dataset['text']" in capfd.readouterr().err
    data.report({"text": sequences([1, 2])}, progress=False)
    assert "dataset['text']" not in capfd.readouterr().err


def test_errors():
    with pytest.raises(ValueError, match="`dataset` must be a tf.data.Dataset. Received: list"):
        data.report([])
    with pytest.raises(ValueError, match="`dataset` must hold at least one task"):
        data.report({})
    with pytest.raises(ValueError, match=r"`dataset\['a'\]` must have elements with the keys"):
        data.report({"a": tf.data.Dataset.range(3)})
    raw = tf.data.Dataset.from_tensors({"inputs": "a", "targets": "b"})
    with pytest.raises(ValueError, match="`dataset` must hold arrays: use .*encode.*string"):
        data.report(raw)
    with pytest.raises(ValueError, match=r"or \(x, y\) as `kmm.data.mix`.*Received: \(Tensor"):
        data.report(tf.data.Dataset.from_tensors((1, 2)))
    with pytest.raises(ValueError, match="`dataset` must not be empty. Received: 0 examples"):
        data.report(images(0))
    with pytest.raises(ValueError, match="`dataset` is infinite. Received: neither"):
        data.report(images(3).repeat())
    with pytest.raises(ValueError, match="`max_steps` must be a positive.*max_steps=0"):
        data.report(images(3), max_steps=0)
    with pytest.raises(ValueError, match="`max_examples` must be a positive.*max_examples=-1"):
        data.report(images(3), max_examples=-1)
