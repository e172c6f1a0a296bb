import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data, datasets


def net(preprocessor=None):
    return types.SimpleNamespace(preprocessor=preprocessor)


def sequences(size, start=1):
    """Example i: inputs of i % 5 + 1 and targets of i % 3 + 1 times the number start + i."""

    def example(index):
        value = tf.cast(index + start, tf.int32)
        return {
            "inputs": tf.fill([index % 5 + 1], value),
            "targets": tf.fill([index % 3 + 1], value),
        }

    return tf.data.Dataset.range(size).map(example)


def classes(size):
    return tf.data.Dataset.range(size).map(
        lambda i: {"inputs": tf.fill([2, 2, 3], tf.cast(i, tf.float32)), "targets": i}
    )


def numbers(dataset, task):
    """The number of every example of a task, step by step."""
    return [x[task]["inputs"].numpy().reshape(len(y[task]), -1)[:, 0].tolist() for x, y in dataset]


def flat(steps):
    return [int(number) for step in steps for number in step]


def test_elements():
    mixed = data.mix({"a": sequences(10), "b": classes(4)}, batch_size=5)
    x, y = next(iter(mixed))
    assert set(x) == set(y) == {"a", "b"}
    assert set(x["a"]) == {"inputs", "targets"} and set(x["b"]) == {"inputs"}
    np.testing.assert_array_equal(x["a"]["targets"], y["a"])
    assert y["a"].shape[0] == 3 and y["b"].shape == (2,)  # 5 = 3 + 2
    x_spec, y_spec = mixed.element_spec
    assert x_spec["a"]["inputs"].shape.as_list() == [3, None]
    assert x_spec["b"]["inputs"].shape.as_list() == [2, 2, 2, 3]
    assert y_spec["b"] == tf.TensorSpec((2,), tf.int64)


def test_padding_is_zero_to_the_longest_of_the_step():
    for x, y in data.mix({"a": sequences(30)}, batch_size=4):
        for batch, period in ((x["a"]["inputs"].numpy(), 5), (y["a"].numpy(), 3)):
            lengths = (batch[:, 0] - 1) % period + 1
            assert batch.shape[1] == lengths.max()
            for row, length in zip(batch, lengths, strict=True):
                assert np.all(row[:length] == row[0]) and not row[length:].any()


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=3),
    st.booleans(),
)
def test_shares_cardinality_and_whole_passes(sizes_and_shares, shuffle):
    sets = {f"task{i}": sequences(size) for i, (size, _) in enumerate(sizes_and_shares)}
    shares = {f"task{i}": share for i, (_, share) in enumerate(sizes_and_shares)}
    mixed = data.mix(sets, shares=shares, shuffle=shuffle)
    steps = max(-(-size // share) for size, share in sizes_and_shares)
    assert mixed.cardinality() == steps
    for i, (size, share) in enumerate(sizes_and_shares):
        seen = numbers(mixed, f"task{i}")
        assert [len(step) for step in seen] == [share] * steps
        seen = flat(seen)
        assert len(seen) >= size
        for start in range(0, len(seen) - size + 1, size):  # each pass has every example once
            assert sorted(seen[start : start + size]) == list(range(1, size + 1))


def test_order_of_a_seed():
    def epochs(seed):
        mixed = data.mix({"a": sequences(20), "b": sequences(20)}, batch_size=8, seed=seed)
        order = []
        for _ in range(3):
            steps = [(x["a"]["inputs"][:, 0], x["b"]["inputs"][:, 0]) for x, _ in mixed]
            order.append([flat(task) for task in zip(*steps, strict=True)])
        return order

    first = epochs(3)
    assert all(epochs(3) == first for _ in range(3))
    assert epochs(4) != first
    (a1, b1), (a2, b2), _ = first
    assert a1 != a2 and b1 != b2 and a1 != b1  # epochs and tasks differ
    assert a1 != sorted(a1)


def test_without_shuffling():
    mixed = data.mix({"a": sequences(5), "b": sequences(2)}, batch_size=4, shuffle=False)
    assert numbers(mixed, "a") == [[1, 2], [3, 4], [5, 1]]
    assert numbers(mixed, "b") == [[1, 2]] * 3


def test_buffer_size_bounds_the_shuffle():
    mixed = data.mix({"a": sequences(50)}, batch_size=1, buffer_size=3)
    order = flat(numbers(mixed, "a"))
    assert sorted(order) == list(range(1, 51)) != order
    assert all(number <= place + 3 for place, number in enumerate(order))


def test_steps():
    endless = sequences(5).repeat()
    mixed = data.mix({"a": endless, "b": classes(3)}, batch_size=2, steps=7)
    assert mixed.cardinality() == 7 == len(list(mixed))


def test_unknown_cardinality_is_counted():
    odd = sequences(9).filter(lambda example: example["inputs"][0] % 2 == 1)
    assert odd.cardinality() == tf.data.UNKNOWN_CARDINALITY
    assert data.mix({"a": odd}, batch_size=2).cardinality() == 3  # 1 3 5 7 9


@pytest.mark.parametrize("shares", [{"a": 4, "b": 4}, {"a": 2, "b": 6}, {"a": 3, "b": 5}])
def test_replicas_share_out_the_examples_of_each_step(shares):
    def mix():
        return data.mix({"a": sequences(9), "b": classes(9)}, shares=shares)

    devices = [device.name for device in tf.config.list_logical_devices("CPU")][:2]
    strategy = tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    distributed = strategy.experimental_distribute_dataset(mix())
    for (_, there), (_, here) in zip(distributed, mix(), strict=True):
        for task in shares:
            parts = [part.numpy() for part in strategy.experimental_local_results(there[task])]
            assert len(parts) == len(devices) and min(len(part) for part in parts) > 0
            first = np.concatenate([part.reshape(len(part), -1)[:, 0] for part in parts])
            expected = here[task].numpy().reshape(len(first), -1)[:, 0]
            np.testing.assert_array_equal(first, expected)


def test_encode_uses_the_preprocessors_of_the_task():
    category = data.CategoryPreprocessor(range(10))
    task = types.SimpleNamespace(inputs=net(data.ImagePreprocessor()), targets=net(category))
    encoded = data.encode(datasets.load("digits", "test"), task, cache=True)
    assert encoded.cardinality() == 500
    assert encoded.element_spec["inputs"] == tf.TensorSpec((32, 32, 3), tf.float32)
    labels = [int(example["targets"]) for example in datasets.load("digits", "test")]
    for _ in range(2):
        assert [int(example["targets"]) for example in encoded] == labels


def test_encode_without_preprocessors_changes_nothing():
    task = types.SimpleNamespace(inputs=net(), targets=net())
    for one, other in zip(data.encode(classes(3), task), classes(3), strict=True):
        np.testing.assert_array_equal(one["inputs"], other["inputs"])
        np.testing.assert_array_equal(one["targets"], other["targets"])


def test_batch_has_every_example_once_in_order():
    batches = data.batch(sequences(7), "a", 3)
    assert numbers(batches, "a") == [[1, 2, 3], [4, 5, 6], [7]]
    x, y = next(iter(batches))
    assert set(x) == set(y) == {"a"} and set(x["a"]) == {"inputs", "targets"}
    x, y = next(iter(data.batch(classes(3), "b", 8)))
    assert set(x["b"]) == {"inputs"} and y["b"].numpy().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"batch_size": 1}, "`batch_size` must be .* each of 2 tasks. Received: batch_size=1"),
        ({"batch_size": 2.0}, "`batch_size` must be a positive integer.*batch_size=2.0"),
        ({}, "`batch_size` or `shares` must be given"),
        ({"shares": {"a": 1}}, r"`shares` must have the tasks .*: a, b. .*shares=\{'a': 1\}"),
        ({"shares": {"a": 1, "c": 2}}, "`shares` must have .*'c': 2"),
        (
            {"shares": {"a": 1, "b": 0}},
            r"`shares\['b'\]` must be a positive integer.*shares\['b'\]=0",
        ),
        ({"shares": {"a": 1, "b": 2}, "batch_size": 4}, "sum of `shares`, 3, .*batch_size=4"),
        ({"batch_size": 2, "steps": 0}, "`steps` must be a positive integer. .*steps=0"),
    ],
)
def test_mix_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.mix({"a": sequences(3), "b": classes(3)}, **arguments)


def test_mix_data_errors():
    def mix(dataset):
        return data.mix({"a": sequences(3), "bad": dataset}, batch_size=2)

    with pytest.raises(ValueError, match=r"`datasets` must map at least one.*datasets=\{\}"):
        data.mix({}, batch_size=2)
    with pytest.raises(ValueError, match=r"`datasets\['bad'\]` must not be empty. Received: 0"):
        mix(classes(0))
    with pytest.raises(ValueError, match=r"`datasets\['bad'\]` must not be empty. Received: 0"):
        mix(classes(3).filter(lambda example: False))
    with pytest.raises(ValueError, match=r"'bad'\]` must have elements .*Received: \['inputs'\]"):
        mix(classes(3).map(lambda example: {"inputs": example["inputs"]}))
    with pytest.raises(ValueError, match=r"'bad'\]` must have elements .*TensorSpec"):
        mix(tf.data.Dataset.range(3))
    with pytest.raises(ValueError, match=r"'bad'\]` must be a tf.data.Dataset. Received: list"):
        mix([1])
    with pytest.raises(ValueError, match=r"'bad'\]` must hold arrays: use `kmm.data.encode`"):
        mix(datasets.load("en_de"))
    with pytest.raises(ValueError, match=r"'bad'\]` must have targets .*shape=\(2, 2, 3\)"):
        mix(classes(3).map(lambda e: {"inputs": e["targets"], "targets": e["inputs"]}))
    with pytest.raises(ValueError, match=r"`steps` must be given, for `datasets\['bad'\]` is inf"):
        mix(classes(3).repeat())


def test_ragged_and_nested_examples_are_refused():
    rows = tf.ragged.constant([[1, 2], [3]])
    whole = tf.ragged.constant([[[1], [2, 3]], [[4], [5]]])
    for inputs in (rows, whole):
        bad = tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": [0, 1]})
        for use in (
            lambda: data.mix({"bad": bad}, batch_size=1),
            lambda: data.batch(bad, "bad", 1),
        ):
            with pytest.raises(ValueError, match=r"'bad'\]` must hold dense .*: inputs=Ragged"):
                use()
        with pytest.raises(ValueError, match="`dataset` must hold dense .*: inputs=RaggedTensor"):
            data.report(bad)
    dense = tf.data.Dataset.from_tensor_slices({"inputs": rows, "targets": [0, 1]}).map(dict)
    assert flat(numbers(data.batch(dense, "a", 2), "a")) == [1, 3]  # as the message says
    sparse = {"inputs": [1, 2], "targets": tf.sparse.from_dense([[1], [2]])}
    with pytest.raises(ValueError, match=r"'bad'\]` must hold dense .*: targets=SparseTensorSpec"):
        data.mix({"bad": tf.data.Dataset.from_tensor_slices(sparse)}, batch_size=1)
    nested = {"inputs": {"left": [1]}, "targets": [1]}
    with pytest.raises(ValueError, match=r"'bad'\]` must hold arrays: .*Received: .*'left'"):
        data.mix({"bad": tf.data.Dataset.from_tensor_slices(nested)}, batch_size=1)


def test_integers_of_numpy_are_integers():
    one, sets = np.int64(1), {"a": sequences(6), "b": classes(4)}
    plain = data.mix(sets, 5, seed=1, steps=3, buffer_size=9)
    numpy = data.mix(sets, 5 * one, seed=one, steps=3 * one, buffer_size=np.uint8(9))
    assert numbers(plain, "a") == numbers(numpy, "a")
    position = data.Position(one, np.array(1))
    shares = {"a": 2 * one, "b": np.int32(3)}
    shared = data.mix(sets, shares=shares, seed=one, steps=3 * one, position=position)
    whole = data.mix(sets, shares={"a": 2, "b": 3}, seed=1, steps=3)
    list(whole)
    assert numbers(shared, "a") == numbers(whole, "a")[1:]
    assert position.mixture["rows"] == {"a": 2, "b": 3} and position.mixture["seed"] == 1
    schedule = data.schedules.Annealed(4 * one)
    budget = data.mix(sets, shares={"b": one}, token_budget={"a": 20 * one}, schedule=schedule)
    assert len(list(budget)) == int(budget.cardinality())
    assert numbers(data.batch(sequences(4), "a", 2 * one), "a") == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"seed": 0.5}, "`seed` must be an integer. Received: seed=0.5"),
        ({"buffer_size": -1}, "`buffer_size` must be an integer of at least 0. .*buffer_size=-1"),
        ({"batch_size": True}, "`batch_size` must be a positive integer. .*batch_size=True"),
        ({"batch_size": np.float32(2)}, "`batch_size` must be a positive integer. Received: "),
        ({"steps": "3"}, "`steps` must be a positive integer. Received: steps='3'"),
        ({"batch_size": None, "shares": 4}, "`shares` must have the tasks .* shares=4"),
        ({"batch_size": None, "shares": {"a": 2, "b": 2.5}}, r"`shares\['b'\]` .*=2.5"),
    ],
)
def test_more_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.mix({"a": sequences(3), "b": classes(3)}, **{"batch_size": 2, **arguments})


def test_datasets_are_named_data_sets():
    with pytest.raises(ValueError, match=r"`datasets` must map .*Received: datasets=\[<"):
        data.mix([sequences(3)], batch_size=2)
    with pytest.raises(ValueError, match=r"`datasets` must map .* by its name.*datasets=\{1: <"):
        data.mix({1: sequences(3)}, batch_size=2)
    raw = sequences(3).map(lambda row: {**row, "source": "pairs.tsv:1"})
    with pytest.raises(ValueError, match="'targets': use `kmm.data.encode`. Received: .*'source'"):
        data.mix({"a": raw}, batch_size=2)
    with pytest.raises(ValueError, match="`task` must be the name of a task. Received: task=1"):
        data.batch(sequences(3), 1, 2)
    twice = sequences(4)  # one data set may serve two tasks, each in an order of its own
    (x, _), *_ = data.mix({"a": twice, "b": twice}, batch_size=8)
    assert sorted(x["a"]["inputs"][:, 0]) == sorted(x["b"]["inputs"][:, 0]) == [1, 2, 3, 4]


def test_batch_and_encode_errors():
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer.*=0"):
        data.batch(classes(3), "b", 0)
    with pytest.raises(ValueError, match=r"`datasets\['b'\]` must not be empty"):
        data.batch(classes(0), "b", 2)
    task = types.SimpleNamespace(inputs=net(), targets=net())
    with pytest.raises(ValueError, match="`dataset` must have elements with the keys"):
        data.encode(tf.data.Dataset.range(3), task)


def test_parallel_calls_change_nothing():
    def order(calls, ahead):
        dataset = sequences(40).map(lambda example: example, num_parallel_calls=calls)
        mixed = data.mix({"a": dataset.prefetch(ahead), "b": classes(9)}, batch_size=6)
        return [[numbers(mixed, "a"), numbers(mixed, "b")] for _ in range(2)]

    first = order(None, 1)
    assert order(2, 8) == order(tf.data.AUTOTUNE, tf.data.AUTOTUNE) == first


def test_errors_of_the_data_come_through():
    def fail(example):
        with tf.control_dependencies([tf.debugging.assert_less(example["targets"][0], 5, "five")]):
            return {key: tf.identity(value) for key, value in example.items()}

    with pytest.raises(tf.errors.InvalidArgumentError, match="five"):
        list(data.mix({"a": sequences(9).map(fail)}, batch_size=2))


def test_a_process_ends_that_holds_an_iteration():
    code = """
import builtins
import tensorflow as tf
from keras_multimodel import data
numbers = tf.data.Dataset.range(99).map(lambda i: {"inputs": tf.fill([3], i), "targets": i})
builtins.held = iter(data.mix({"a": numbers}, batch_size=4).repeat())
next(builtins.held)
"""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)
