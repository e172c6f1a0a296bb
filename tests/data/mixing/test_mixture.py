import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data
from keras_multimodel.data import schedules
from keras_multimodel.data.mixing.task_batches import TaskReader
from tests.data.mixing.test_mix import classes, sequences
from tests.data.mixing.test_task_batches import counted

SETS = {"a": sequences(11), "b": classes(4)}
ARGUMENTS = {
    "joint, whole passes": {"batch_size": 5},
    "joint, part of a pass": {"batch_size": 5, "steps": 2},
    "joint, in order": {"batch_size": 5, "steps": 2, "shuffle": False},
    "one task": {"batch_size": 3, "schedule": schedules.Uniform()},
    "one task, steps": {"batch_size": 3, "schedule": schedules.Temperature(), "steps": 4},
    "one task, in order": {"batch_size": 3, "schedule": schedules.Proportional(), "shuffle": False},
}


def contents(mixed):
    """The numbers of the examples of each task, step by step."""
    return [
        {name: [int(row.ravel()[0]) for row in x[name]["inputs"].numpy()] for name in x}
        for x, _ in mixed
    ]


@pytest.fixture(scope="module")
def uncut():
    found = {}
    for case, arguments in ARGUMENTS.items():
        mixed = data.mix(SETS, **arguments, position=data.Position())
        found[case] = [contents(mixed) for _ in range(4)]
    return found


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(ARGUMENTS)), st.integers(0, 3), st.integers(0, 6))
def test_any_step_of_any_epoch_can_be_next(uncut, case, epoch, step):
    epochs = uncut[case]
    step = min(step, len(epochs[0]))
    position = data.Position(epoch, step)
    mixed = data.mix(SETS, **ARGUMENTS[case], position=position)
    assert mixed.cardinality() == len(epochs[0])
    assert contents(mixed) == epochs[epoch][step:]
    assert (position.epoch, position.step) == (epoch + 1, 0)
    if epoch < 3:
        assert contents(mixed) == epochs[epoch + 1]
    position.move(0, 1)
    assert contents(mixed) == epochs[0][1:]


@pytest.mark.parametrize("case", ARGUMENTS)
def test_iterations_that_are_broken_off_change_nothing(uncut, case):
    position = data.Position()
    mixed = data.mix(SETS, **ARGUMENTS[case], position=position)
    for epoch in (0, 1):
        for _ in range(2):
            next(iter(mixed))
            position.move(epoch)
        assert contents(mixed) == uncut[case][epoch]


def test_epochs_of_few_steps_go_on_through_the_pass():
    mixed = data.mix({"a": sequences(12)}, batch_size=2, steps=2, position=data.Position())
    passes = [[n for _ in range(3) for step in contents(mixed) for n in step["a"]] for _ in "12"]
    assert [sorted(numbers) for numbers in passes] == [list(range(1, 13))] * 2
    assert passes[0] != passes[1]


def test_a_schedule_goes_on_through_the_passes_of_each_task(uncut):
    for case in ("one task", "one task, steps"):
        steps = [step for epoch in uncut[case] for step in epoch]
        for name, size, first in (("a", 11, 1), ("b", 4, 0)):
            seen = [int(number) for step in steps for number in step[name]]
            for start in range(0, len(seen) - size + 1, size):
                assert sorted(seen[start : start + size]) == list(range(first, first + size))


def test_in_order_every_epoch_begins_anew(uncut):
    first, second, *_ = uncut["joint, in order"]
    assert first == second
    assert [step["a"] for step in first] == [[1, 2, 3], [4, 5, 6]]


def test_errors():
    position = data.Position()
    with pytest.raises(
        ValueError, match="`epoch` must be an integer of at least 0. Received: epoch=-1"
    ):
        position.move(-1)
    with pytest.raises(
        ValueError, match="`step` must be an integer of at least 0. Received: step=0.5"
    ):
        position.move(0, 0.5)
    with pytest.raises(ValueError, match="`position` must be given to `kmm.data.mix` too"):
        position.check_steps(3)
    data.mix(SETS, batch_size=5, position=position)
    with pytest.raises(ValueError, match="`position` must be new for every mixture.*of a, b"):
        data.mix(SETS, batch_size=5, position=position)
    with pytest.raises(ValueError, match="`step` must be at most the 4 steps .*step=5"):
        position.move(1, 5)
    with pytest.raises(ValueError, match="4 steps in an epoch: use `steps` .*Received: 9 steps"):
        position.check_steps(9)
    with pytest.raises(ValueError, match="`step` must be at most the 4 steps .*step=7"):
        data.mix(SETS, batch_size=5, position=data.Position(0, 7))
    with pytest.raises(ValueError, match="`position` must be a `kmm.data.Position`.*position=3"):
        data.mix(SETS, batch_size=5, position=3)


def test_the_next_epoch_goes_on_without_reading_again():
    dataset, read = counted(160)
    mixed = data.mix({"a": dataset}, batch_size=2, steps=5, buffer_size=10)
    seen = []
    for epoch in range(12):
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


def test_readers_are_kept_by_whoever_takes_the_last_step(monkeypatch):
    """An iterator that is given up may have read ahead to it, and cancels readers."""
    parked = []
    monkeypatch.setattr(TaskReader, "keep", lambda self, *arguments: parked.append(arguments))
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


@pytest.mark.parametrize("position", [None, (0, 0), (2, 1)])
def test_a_mixture_is_a_data_set_like_any_other(position):
    def mix():
        where = position and data.Position(*position)
        return data.mix(SETS, **ARGUMENTS["joint, whole passes"], position=where)

    mixed, expected = mix(), contents(mix())
    assert isinstance(mixed, tf.data.Dataset)
    assert int(mixed.cardinality()) == len(expected) + (position[1] if position else 0)
    kept = mixed.map(lambda x, y: (x, y)).prefetch(2).map(lambda x, y: x, num_parallel_calls=2)
    assert int(kept.cardinality()) == int(mixed.cardinality())
    assert mixed.element_spec == mixed.map(lambda x, y: (x, y)).element_spec
    changes = {
        "prefetch": lambda dataset: dataset.prefetch(2),
        "map": lambda dataset: dataset.map(lambda x, y: (x, y)),
        "take": lambda dataset: dataset.take(len(expected)),
        "augment": lambda dataset: data.augment(dataset, {"a": lambda inputs, seed: inputs}),
        "options": lambda dataset: dataset.with_options(tf.data.Options()),
    }
    for name, change in changes.items():
        if name != "augment" or not position:
            assert contents(change(mix())) == expected, name
    where = position and data.Position(*position)
    changed = data.mix(SETS, **ARGUMENTS["joint, whole passes"], position=where)
    changed = data.augment(changed, {"a": lambda inputs, seed: inputs}, position=where)
    assert contents(changed) == expected
    assert int(changed.cardinality()) == int(mixed.cardinality())
    report = data.report(mix(), progress=False)
    assert report.tasks["a"].examples == sum(len(step["a"]) for step in expected)


def test_replicas_read_a_mixture_from_the_middle_of_an_epoch(strategy):
    def mix():
        return data.mix(SETS, batch_size=4, steps=5, position=data.Position(1, 2))

    distributed = strategy.experimental_distribute_dataset(mix())
    assert int(distributed.cardinality) == 5
    steps = [strategy.experimental_local_results(y["b"]) for _, y in distributed]
    found = [[int(n) for part in step for n in part] for step in steps]
    assert found == [[int(n) for n in y["b"]] for _, y in mix()]
    assert len(found) == 3


@pytest.mark.parametrize("make", [schedules.Temperature, schedules.Adaptive])
def test_reading_changes_the_position_and_nothing_else(make):
    schedule, position = make(), data.Position()
    mixed = data.mix(SETS, batch_size=3, steps=150, schedule=schedule, position=position)
    before = {key: repr(value) for key, value in vars(schedule).items()}
    list(mixed.repeat(2))
    assert {key: repr(value) for key, value in vars(schedule).items()} == before
    assert (position.epoch, position.step) == (2, 0)


def test_what_belongs_to_another_mixture_is_refused_before_anything_is_read_or_bound():
    def unreadable():
        raise AssertionError("read")
        yield

    spec = {"inputs": tf.TensorSpec([None], "int32"), "targets": tf.TensorSpec([], "int32")}
    sets = {"a": tf.data.Dataset.from_generator(unreadable, output_signature=spec)}
    sets["a"] = sets["a"].apply(tf.data.experimental.assert_cardinality(9))
    used, adaptive = data.Position(), schedules.Adaptive()
    data.mix(SETS, batch_size=5, position=used)
    data.mix(SETS, batch_size=5, schedule=adaptive)
    with pytest.raises(ValueError, match="`position` must be new for every mixture.*of a, b"):
        data.mix(sets, token_budget=9, position=used)
    fresh = data.Position()
    with pytest.raises(ValueError, match="`schedule` must be new for every mixture.*tasks a, b"):
        data.mix(sets, token_budget=9, position=fresh, schedule=adaptive)
    far = data.Position(0, 7)
    with pytest.raises(ValueError, match="`step` must be at most the 4 steps .*step=7"):
        data.mix(SETS, batch_size=5, position=far)
    far.move(0, 0)
    for position in (fresh, far):  # no failed call has bound it
        data.mix(SETS, batch_size=5, position=position)


@pytest.mark.parametrize("value", [np.int64(2), np.array(2)])
def test_a_position_of_numpy_integers(value):
    position = data.Position(value, value)
    assert (position.epoch, position.step) == (2, 2) and type(position.step) is int
    for wrong in (True, 1.5, "1", None):
        with pytest.raises(ValueError, match=f"`epoch` must be an integer .*epoch={wrong!r}"):
            position.move(wrong)
