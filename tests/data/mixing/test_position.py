import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data
from keras_multimodel.data import schedules
from tests.data.mixing.test_mix import classes, sequences

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
    with pytest.raises(ValueError, match="`epoch` must be a natural number. Received: epoch=-1"):
        position.move(-1)
    with pytest.raises(ValueError, match="`step` must be a natural number. Received: step=0.5"):
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
