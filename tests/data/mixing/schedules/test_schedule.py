import collections
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel.data import schedules
from keras_multimodel.data.mixing.schedules.schedule import TaskDraws

SIZES = {"large": 90_000, "middle": 9_000, "small": 900, "tiny": 100}


def power(exponent, cap=np.inf):
    weights = np.minimum(np.array(list(SIZES.values()), float), cap) ** exponent
    return weights / weights.sum()


def annealed(steps, draws=10_000):
    """Mean over the steps of shares whose exponent falls from 1 to 0.2 within `steps`."""
    exponents = 1 - 0.8 * np.minimum(np.arange(draws) / steps, 1)
    return np.mean([power(exponent) for exponent in exponents], axis=0)


CASES = {
    "uniform": (schedules.Uniform(), np.full(4, 0.25)),
    "proportional": (schedules.Proportional(), power(1)),
    "temperature": (schedules.Temperature(3.0), power(1 / 3)),
    "capped": (schedules.Temperature(1.0, cap=1000), power(1, cap=1000)),
    "annealed": (schedules.Annealed(10_000), annealed(10_000)),
    "annealed halfway": (schedules.Annealed(5_000), annealed(5_000)),
    "adaptive without training": (schedules.Adaptive(), np.full(4, 0.25)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("steps", [10_000, 625])
def test_drawn_shares_of_10_000_steps(case, steps):
    schedule, shares = CASES[case]
    epochs = [schedule.draw(SIZES, steps, epoch=epoch) for epoch in range(10_000 // steps)]
    drawn = collections.Counter(task for epoch in epochs for task in epoch)
    total = sum(drawn.values())
    assert total == 10_000
    for name, share in zip(SIZES, shares, strict=True):
        # 2 %, or a step where that is less
        assert abs(drawn[name] - share * total) <= max(0.02 * share * total, 1), name
    if case in ("uniform", "proportional", "capped"):
        expected = dict(zip(SIZES, shares.tolist(), strict=True))
        assert schedule.shares(SIZES) == pytest.approx(expected)


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_follows_from_seed_and_number(case):
    schedule, _ = CASES[case]
    whole = schedule.draw(SIZES, 750, seed=5)
    parts = [schedule.draw(SIZES, 250, seed=5, epoch=epoch) for epoch in (2, 0, 1)]
    assert parts[1] + parts[2] + parts[0] == whole
    assert schedule.draw(SIZES, 750, seed=6) != whole
    assert whole[:100] != sorted(whole[:100])


@pytest.mark.parametrize("number", [np.int64, np.float32])
def test_numbers_of_numpy_are_numbers_in_the_config(number):
    """`Resume` compares configs with what JSON made of them."""
    made = [schedules.Temperature(number(3), cap=number(500))]
    if number is np.int64:
        made += [schedules.Adaptive(0.5, number(7)), schedules.Annealed(number(9), number(1))]
    else:
        made += [schedules.Adaptive(number(0.5), 7), schedules.Annealed(9, number(0.5))]
    for schedule in made:
        config = schedule.get_config()
        assert json.loads(json.dumps(config)) == config
        assert type(schedule)(**config).shares(SIZES, 3) == schedule.shares(SIZES, 3)


def test_no_stretch_of_steps_is_far_from_the_shares():
    drawn = schedules.Proportional().draw({"a": 3, "b": 1}, 1000)
    counts = np.cumsum([task == "b" for task in drawn])
    windows = counts[99::100]
    np.testing.assert_allclose(windows, 25 * np.arange(1, 11), atol=1)


def test_shares_at_a_step():
    sizes = {"a": 256, "b": 1}
    assert schedules.Temperature(8.0).shares(sizes) == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    schedule = schedules.Annealed(100, first_exponent=0.5, last_exponent=0.0)
    assert schedule.shares(sizes, 0) == pytest.approx({"a": 16 / 17, "b": 1 / 17})
    assert schedule.shares(sizes, 50) == pytest.approx({"a": 4 / 5, "b": 1 / 5})
    assert schedule.shares(sizes, 100) == schedule.shares(sizes, 999) == {"a": 0.5, "b": 0.5}


class Alternate(schedules.Schedule):
    """A user's own: the first task in even windows, the second in odd ones."""

    window = 3
    needs_sizes = False

    def shares(self, sizes, step=0):
        first, second = sizes
        odd = step // self.window % 2
        return {first: 1.0 - odd, second: float(odd)}


def test_a_schedule_of_the_users_own():
    assert Alternate().draw({"a": 1, "b": 1}, 9) == list("aaabbbaaa")


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: schedules.Temperature(0.5), "`temperature` must be .*temperature=0.5"),
        (lambda: schedules.Temperature(float("nan")), "`temperature` must be .*=nan"),
        (lambda: schedules.Temperature(2, cap=0), "`cap` must be positive or None. .*cap=0"),
        (lambda: schedules.Annealed(0), "`steps` must be a positive integer. Received: steps=0"),
        (lambda: schedules.Annealed(9, first_exponent=2), "`first_exponent` must be in .*=2"),
        (lambda: schedules.Annealed(9, last_exponent=-1), "`last_exponent` must be in .*=-1"),
        (lambda: schedules.Adaptive(decay=1.0), "`decay` must be in .*decay=1.0"),
        (lambda: schedules.Adaptive(window=0), "`window` must be a positive integer. .*window=0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


FEW = {"a": 70, "b": 20, "c": 10}
FEW_NAMES = list(FEW)


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
    drawn = schedule.draw(FEW, 60, seed=3)
    draws = TaskDraws(schedule, FEW, 3)
    stop = start + length
    counts, owed = draws.count(start, stop)
    assert counts.tolist() == [drawn[start:stop].count(name) for name in FEW_NAMES]
    rest = draws.dataset(tf.constant(stop, "int64"), tf.constant(owed)).take(20)
    assert [FEW_NAMES[number] for number in rest.as_numpy_iterator()] == drawn[stop : stop + 20]


@pytest.mark.parametrize("step", [0, 7])
def test_a_window_is_drawn_when_its_first_step_is_read(step):
    schedule = Windows(5)
    draws = TaskDraws(schedule, FEW, 0)
    _, owed = draws.count(0, step)
    schedule.asked.clear()
    options = tf.data.Options()
    options.autotune.enabled = False  # as in `EpochReader`: it would read ahead
    dataset = draws.dataset(tf.constant(step, "int64"), tf.constant(owed)).with_options(options)
    for number, _ in enumerate(itertools.islice(dataset, 9), step):
        assert schedule.asked == list(range(step // 5, number // 5 + 1))
    assert np.all(owed == 0) == (step == 0)
