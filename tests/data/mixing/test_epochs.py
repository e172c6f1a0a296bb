import time

import pytest

from keras_multimodel import data
from keras_multimodel.data import schedules
from keras_multimodel.data.mixing.streams import Stream
from keras_multimodel.ops.first_look import first_look
from tests.data.mixing.test_mix import classes, sequences
from tests.data.mixing.test_position import ARGUMENTS, SETS, contents
from tests.data.mixing.test_streams import counted


def test_the_next_epoch_goes_on_without_reading_again():
    dataset, read = counted(160)
    mixed = data.mix({"a": dataset}, batch_size=2, steps=5, buffer_size=10)
    seen = []
    for epoch in range(12):
        with first_look():  # as at the begin of `fit`
            next(iter(mixed.take(1)))
        read.clear()
        seen += [number for step in contents(mixed) for number in step["a"]]
        assert len(read) <= 10 + 10 * (epoch == 0) + 6  # the buffer at first, and what is ahead
    assert len(set(seen)) == len(seen) == 120


@pytest.mark.parametrize("case", ARGUMENTS)
def test_iterations_side_by_side_do_not_disturb_each_other(case):
    expected = data.mix(SETS, **ARGUMENTS[case])
    epochs = [contents(expected) for _ in range(4)]
    mixed = data.mix(SETS, **ARGUMENTS[case])
    assert contents(mixed) == epochs[0]
    side_by_side = [contents([step]) for pair in zip(mixed, mixed) for step in pair]
    assert sum(side_by_side[::2], []) == epochs[1]
    assert sum(side_by_side[1::2], []) == epochs[2]
    assert contents(mixed) == epochs[3]


@pytest.mark.parametrize("after", [lambda mixed: mixed, lambda mixed: mixed.prefetch(4)])
@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_first_look_does_not_count(case, after):
    expected = contents(data.mix(SETS, **ARGUMENTS[case]))
    position = data.Position(0, 1)
    mixed = data.mix(SETS, **ARGUMENTS[case], position=position)
    with first_look():
        assert contents(after(mixed).take(1)) == expected[:1]
    assert (position.epoch, position.step) == (0, 1)
    assert contents(mixed) == expected[1:]


def test_readers_are_kept_by_whoever_takes_the_last_step(monkeypatch):
    """An iterator that is given up may have read ahead to it, and cancels readers."""
    parked = []
    monkeypatch.setattr(Stream, "park", lambda self, *arguments: parked.append(arguments))
    mixed = data.mix({"a": sequences(12)}, batch_size=2, steps=3)
    given_up = iter(mixed)
    next(given_up)
    time.sleep(0.5)  # it reads the two steps ahead
    assert not parked
    taken = iter(mixed)
    list(taken)
    assert len(parked) == 1
    list(given_up)  # another has begun since
    assert len(parked) == 1


def test_steps_without_a_position_go_on_through_the_passes():
    mixed = data.mix({"a": sequences(12)}, batch_size=2, steps=2)
    seen = [number for _ in range(3) for step in contents(mixed) for number in step["a"]]
    assert sorted(seen) == list(range(1, 13))


def test_errors_of_a_schedule_come_through():
    class Broken(schedules.Uniform):
        window = 2

        def shares(self, sizes, step=0):
            if step > 4:
                raise ValueError("no shares of step 5")
            return super().shares(sizes, step)

    mixed = data.mix({"a": sequences(9), "b": classes(9)}, 1, steps=9, schedule=Broken())
    with pytest.raises(Exception, match="no shares of step 5"):
        contents(mixed)
