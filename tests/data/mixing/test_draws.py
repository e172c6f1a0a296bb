import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel.data import schedules
from keras_multimodel.data.mixing.streams import Draws

SIZES = {"a": 70, "b": 20, "c": 10}
NAMES = list(SIZES)


class Windows(schedules.Temperature):
    """Remembers the steps whose shares were asked for."""

    def __init__(self, window):
        super().__init__()
        self.window = window
        self.asked = []

    def shares(self, sizes, step=0):
        self.asked.append(step // self.window)
        return super().shares(sizes, step)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(0, 25), st.integers(0, 15))
def test_counts_and_data_set_are_those_of_the_schedule(window, start, length):
    schedule = Windows(window)
    drawn = schedule.draw(SIZES, 60, seed=3)
    draws = Draws(schedule, SIZES, 3)
    stop = start + length
    counts, owed = draws.count(start, stop)
    assert counts.tolist() == [drawn[start:stop].count(name) for name in NAMES]
    rest = draws.dataset(tf.constant(stop, "int64"), tf.constant(owed)).take(20)
    assert [NAMES[number] for number in rest.as_numpy_iterator()] == drawn[stop : stop + 20]


@pytest.mark.parametrize("step", [0, 7])
def test_a_window_is_drawn_when_its_first_step_is_read(step):
    schedule = Windows(5)
    draws = Draws(schedule, SIZES, 0)
    _, owed = draws.count(0, step)
    schedule.asked.clear()
    options = tf.data.Options()
    options.autotune.enabled = False  # as in `Mixing`: it would read ahead
    dataset = draws.dataset(tf.constant(step, "int64"), tf.constant(owed)).with_options(options)
    for number, _ in enumerate(itertools.islice(dataset, 9), step):
        assert schedule.asked == list(range(step // 5, number // 5 + 1))
    assert np.all(owed == 0) == (step == 0)
