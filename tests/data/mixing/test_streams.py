import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel.data.mixing.buckets import bucketed_source
from keras_multimodel.data.mixing.streams import Stream, fixed_source
from tests.data.mixing.test_mix import sequences

SIZE = 12


def fixed(dataset, buffer_size=4):
    return fixed_source(dataset, 5, SIZE, buffer_size, static=True)


def bucketed(dataset, buffer_size=4):
    return bucketed_source("a", dataset, 20, buffer_size)


def numbers(stream, reader, count):
    return [stream.read(reader)["inputs"][:, 0].numpy().tolist() for _ in range(count)]


@pytest.mark.parametrize("source", [fixed, bucketed])
def test_every_place_can_be_opened(source):
    stream = Stream(source(sequences(SIZE)), "seed")
    whole = numbers(stream, stream.open(0, 0), 9)
    for batch in range(5):
        again = Stream(source(sequences(SIZE)), "seed")
        assert numbers(again, again.open(0, batch), 4) == whole[batch : batch + 4]
    assert numbers(stream, stream.open(1, 0), 9) != whole
    other = Stream(source(sequences(SIZE)), "another seed")
    assert numbers(other, other.open(0, 0), 9) != whole


@pytest.mark.parametrize("source", [fixed, bucketed])
@pytest.mark.parametrize("buffer_size", [None, 4])
def test_each_pass_has_every_example_once(source, buffer_size):
    made = source(sequences(SIZE), buffer_size)
    stream = Stream(made, "seed")
    seen = sum(numbers(stream, stream.open(0, 0), 12), [])
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


def test_a_parked_reader_goes_on_where_it_stands_only():
    dataset, read = counted(100)
    stream = Stream(fixed_source(dataset, 2, 100, 10, static=True), "seed")
    first = stream.open(0, 0)
    start = numbers(stream, first, 30)
    stream.park(0, 30, first)
    read.clear()
    ahead = stream.open(0, 31)
    expected = numbers(stream, ahead, 3)
    assert len(read) >= 68  # 62 that are left out and 6
    read.clear()
    for origin in (0, 1):
        goes_on = stream.open(origin, 30)
        found = numbers(stream, goes_on, 4)
        assert (found[1:] == expected) == (origin == 0)
        assert (len(read) <= 12) == (origin == 0)  # 8, and 2 batches that are fetched ahead
    assert numbers(stream, stream.open(0, 0), 30) == start


def test_nothing_is_a_batch_without_examples():
    stream = Stream(fixed(sequences(SIZE)), "seed")
    for key, value in stream.nothing().items():
        assert value.shape == (0, 1) and value.dtype == stream.read(stream.open(0, 0))[key].dtype


def test_a_stream_keeps_its_data_set_alive():
    stream = Stream(fixed_source(counted(SIZE)[0], 5, SIZE, None, static=True), "seed")
    assert np.all(stream.read(stream.open(0, 0))["targets"] == np.arange(5))
