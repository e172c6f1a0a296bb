import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data, datasets
from keras_multimodel.data import schedules
from keras_multimodel.data.mixing.task_batches import (
    TaskReader,
    bucketed_batches,
    fixed_batches,
    make_buckets,
)
from tests.data.mixing.test_mix import classes, sequences

SIZE = 12


def fixed(dataset, buffer_size=4):
    return fixed_batches(dataset, 5, SIZE, buffer_size, in_every_step=True)


def bucketed(dataset, buffer_size=4):
    return bucketed_batches("a", dataset, 20, buffer_size)


def numbers(reader, iterator, count):
    return [reader.next_batch(iterator)["inputs"][:, 0].numpy().tolist() for _ in range(count)]


@pytest.mark.parametrize("source", [fixed, bucketed])
def test_every_place_can_be_opened(source):
    reader = TaskReader(source(sequences(SIZE)), "seed")
    whole = numbers(reader, reader.start(0, 0), 9)
    for batch in range(5):
        again = TaskReader(source(sequences(SIZE)), "seed")
        assert numbers(again, again.start(0, batch), 4) == whole[batch : batch + 4]
    assert numbers(reader, reader.start(1, 0), 9) != whole
    other = TaskReader(source(sequences(SIZE)), "another seed")
    assert numbers(other, other.start(0, 0), 9) != whole


@pytest.mark.parametrize("source", [fixed, bucketed])
@pytest.mark.parametrize("buffer_size", [None, 4])
def test_each_pass_has_every_example_once(source, buffer_size):
    made = source(sequences(SIZE), buffer_size)
    reader = TaskReader(made, "seed")
    seen = sum(numbers(reader, reader.start(0, 0), 12), [])
    for start in range(0, len(seen) - SIZE + 1, SIZE):
        assert sorted(seen[start : start + SIZE]) == list(range(1, SIZE + 1))
    passes = seen[:SIZE], seen[SIZE : 2 * SIZE]
    assert (passes[0] == passes[1]) == (buffer_size is None)


def counted(size):
    """Examples, and how many of them have been read."""
    read = []

    def count(number):
        read.append(int(number))
        return number

    def example(number):
        number = tf.ensure_shape(tf.numpy_function(count, [number], tf.int64), [])
        return {"inputs": tf.fill([3], number), "targets": number}

    return tf.data.Dataset.range(size).map(example), read


def test_a_kept_iterator_is_used_again_where_it_stands_only():
    dataset, read = counted(100)
    reader = TaskReader(fixed_batches(dataset, 2, 100, 10, in_every_step=True), "seed")
    first = reader.start(0, 0)
    start = numbers(reader, first, 30)
    reader.keep(0, 30, first)
    read.clear()
    ahead = reader.start(0, 31)
    expected = numbers(reader, ahead, 3)
    assert len(read) >= 68  # 62 that are left out and 6
    read.clear()
    for order in (0, 1):
        again = reader.start(order, 30)
        found = numbers(reader, again, 4)
        assert (found[1:] == expected) == (order == 0)
        assert (len(read) <= 12) == (order == 0)  # 8, and 2 batches that are fetched ahead
    assert numbers(reader, reader.start(0, 0), 30) == start


def test_an_empty_batch_is_a_batch_without_examples():
    reader = TaskReader(fixed(sequences(SIZE)), "seed")
    batch = reader.next_batch(reader.start(0, 0))
    for key, value in reader.empty_batch().items():
        assert value.shape == (0, 1) and value.dtype == batch[key].dtype


def test_a_reader_keeps_its_data_set_alive():
    reader = TaskReader(fixed_batches(counted(SIZE)[0], 5, SIZE, None, in_every_step=True), "seed")
    assert np.all(reader.next_batch(reader.start(0, 0))["targets"] == np.arange(5))


def ragged(lengths):
    """Example i: as many inputs and targets as `lengths[i]` says, all of them i + 1."""

    def example(length, number):
        return {"inputs": tf.fill([length[0]], number), "targets": tf.fill([length[1]], number)}

    numbers = tf.range(1, len(lengths) + 1)
    return tf.data.Dataset.from_tensor_slices((tf.constant(lengths), numbers)).map(example)


def random_lengths(size, seed=0):
    random = np.random.default_rng(seed)
    inputs = random.integers(3, 40, size)
    targets = np.maximum(1, inputs + random.integers(-4, 5, size))
    return np.stack([inputs, targets], axis=1)


def batches(mixed, task):
    """Inputs and targets of the steps that train a task."""
    found = [(x[task]["inputs"].numpy(), y[task].numpy()) for x, y in mixed]
    return [pair for pair in found if len(pair[0])]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=80),
    st.integers(60, 300),
)
def test_buckets_have_every_example_once(lengths, budget):
    lengths = np.array(lengths)
    buckets = make_buckets(lengths, budget)
    inside = np.stack(
        [((lengths > b.low) & (lengths <= b.high)).all(axis=1) for b in buckets], axis=1
    )
    assert (inside.sum(axis=1) == 1).all()
    for bucket, members in zip(buckets, inside.T, strict=True):
        assert bucket.size == members.sum() > 0
        assert bucket.rows >= 1
        assert bucket.rows * lengths[members].max(axis=0).sum() <= budget


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("schedule", [None, schedules.Uniform()])
def test_every_example_once_in_a_pass_and_no_batch_over_the_budget(shuffle, schedule):
    lengths = random_lengths(300)
    sets = {"text": ragged(lengths), "image": classes(5)}
    mixed = data.mix(sets, 4, shuffle=shuffle, schedule=schedule, token_budget=200, steps=None)
    found = batches(mixed, "text")
    numbers = [int(n) for inputs, _ in found for n in inputs[:, 0]]
    if schedule is None:
        assert len(found) == mixed.cardinality()
        assert sorted(numbers) == list(range(1, 301))
    else:
        assert len(set(numbers)) == len(numbers)  # uniform: half of the steps are images
    for inputs, targets in found:
        assert len(inputs) * (inputs.shape[1] + targets.shape[1]) <= 200
        for row, target in zip(inputs, targets, strict=True):
            length = lengths[row[0] - 1]
            assert np.count_nonzero(row) == length[0]
            assert np.count_nonzero(target) == length[1] and target[0] == row[0]
    image = [len(y["image"]) for _, y in mixed]
    assert set(image) == ({4} if schedule is None else {0, 4})


def test_less_padding_than_with_a_fixed_number_of_rows():
    def padding(**arguments):
        mixed = data.mix({"text": ragged(random_lengths(1000))}, **arguments)
        parts = [part for pair in batches(mixed, "text") for part in pair]
        return 1 - sum(np.count_nonzero(part) for part in parts) / sum(p.size for p in parts)

    assert padding(token_budget=1000) < 0.15 < 0.3 < padding(batch_size=24)


def test_the_order_of_a_seed_and_any_step_next():
    def steps(seed, position=None):
        mixed = data.mix(
            {"text": ragged(random_lengths(60))}, token_budget=150, seed=seed, position=position
        )
        return [inputs[:, 0].tolist() for inputs, _ in batches(mixed, "text")]

    first = steps(1)
    assert steps(1) == first != steps(2)
    assert steps(1, data.Position(0, 4)) == first[4:]
    assert sorted(map(len, steps(1, data.Position(1)))) == sorted(map(len, first))


SHIPPED = {"en_de": 2048, "de_en": 2048, "en_fr": 2048, "fr_en": 2048, "parse": 2048}


@pytest.mark.parametrize("name", SHIPPED)
def test_little_padding_on_the_shipped_text(name):
    raw = datasets.load(name).take(2500)
    pairs = list(raw.as_numpy_iterator())
    texts = [value.decode() for pair in pairs for value in pair.values()]
    preprocessor = data.train_text_preprocessor(texts[:2000], 1000)
    net = types.SimpleNamespace(preprocessor=preprocessor)
    encoded = data.encode(raw, types.SimpleNamespace(inputs=net, targets=net), cache=True)
    found = batches(data.mix({name: encoded}, token_budget=SHIPPED[name]), name)
    parts = [part for pair in found for part in pair]
    real = sum(np.count_nonzero(part) for part in parts)
    padded = sum(part.size for part in parts)
    assert sum(len(inputs) for inputs, _ in found) == len(pairs)
    assert 1 - real / padded < 0.15, f"{1 - real / padded:.3f} in {len(found)} batches"


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            {"token_budget": 40},
            "`token_budget` must be at least .*=40, but example 1 .* of 50: 20 ",
        ),
        ({"token_budget": 0}, "`token_budget` must be a positive integer. .*token_budget=0"),
        ({"token_budget": {"image": 9}}, "`token_budget` must be of tasks with .*: text. .*image"),
        ({"token_budget": {"text": 9, "x": 9}}, "must be of tasks with .*: text. .*'x': 9"),
        ({"token_budget": {}}, r"must be of tasks with .*: text. Received: token_budget=\{\}"),
        ({"token_budget": 99, "batch_size": None}, "`batch_size` or `shares` must be given"),
    ],
)
def test_errors(arguments, message):
    sets = {"text": ragged([[5, 5], [20, 30]]), "image": classes(3)}
    with pytest.raises(ValueError, match=message):
        data.mix(sets, **{"batch_size": 2, **arguments})


def test_errors_of_sequences_alone():
    text = ragged([[5, 5], [20, 30]])
    with pytest.raises(ValueError, match="`batch_size` and `shares` must be None .*batch_size=2"):
        data.mix({"text": text}, batch_size=2, token_budget=99)
    with pytest.raises(ValueError, match=r"needs all lengths of `datasets\['text'\]`"):
        data.mix({"text": text.repeat()}, token_budget=99, steps=3)
