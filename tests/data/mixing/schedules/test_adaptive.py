import collections
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from keras_multimodel import data
from keras_multimodel.data import schedules
from tests.data.mixing.test_mix import classes, sequences

SIZES = {"a": 1, "b": 1, "c": 1}


def train(schedule, losses, epochs, steps, read_ahead=3, parts=("",)):
    """Trains as `fit` does, but with given losses; returns the tasks of the steps.

    `losses(task, step)` is the loss of a task where it is drawn. Logs are means over the epoch. The
    input is read `read_ahead` steps before it is trained on. The logs have a loss for each of the
    parts of a task's name, equal shares of its loss.
    """
    position = data.Position()
    position.bind({"steps": steps, "rows": SIZES}, schedule)
    schedule.bind(SIZES, 0, position, steps)
    schedule.set_params({"steps": steps})
    schedule.on_train_begin()
    trained = []
    for epoch in range(epochs):
        schedule.on_epoch_begin(epoch)
        assert position.begin() == (epoch, 0)
        drawn = itertools.chain.from_iterable(schedule.windows(SIZES, 0))
        drawn = itertools.islice(drawn, epoch * steps, (epoch + 1) * steps)
        ahead = collections.deque(itertools.islice(drawn, read_ahead))
        totals = dict.fromkeys(SIZES, 0.0)
        for step in range(steps):
            ahead.extend(itertools.islice(drawn, 1))
            task = ahead.popleft()
            totals[task] += losses(task, len(trained))
            trained.append(task)
            logs = {
                f"{name}{part}_loss": total / (step + 1) / len(parts)
                for name, total in totals.items()
                for part in parts
            }
            schedule.on_train_batch_end(step, logs)
        schedule.on_epoch_end(epoch, logs)
    schedule.on_train_end()
    return trained


def test_shares_follow_the_exponential_of_the_loss():
    levels = {"a": 0.5, "b": 2.0, "c": 1.0}
    schedule = schedules.Adaptive(window=50)
    drawn = train(schedule, lambda task, step: levels[task], epochs=4, steps=2525)
    weights = np.exp(list(levels.values()))
    counts = collections.Counter(drawn[100:])
    for name, share in zip(levels, weights / weights.sum(), strict=True):
        assert counts[name] == pytest.approx(share * 10_000, rel=0.02)
    assert collections.Counter(drawn[:100]) == pytest.approx(dict.fromkeys("abc", 100 / 3), abs=1)


def test_rows_that_several_tasks_read_have_the_sum_of_their_losses():
    def losses(task, step):
        return {"a": 0.5, "b": 2.0, "c": 1.0}[task] + step % 5

    tasks = {
        f"{rows}{part}": SimpleNamespace(name=f"{rows}{part}", rows=rows)
        for rows in SIZES
        for part in ("1", "2")
    }
    split, whole = schedules.Adaptive(window=5), schedules.Adaptive(window=5)
    split.set_model(SimpleNamespace(tasks=tasks))
    drawn = train(split, losses, epochs=2, steps=30, parts=("1", "2"))
    assert drawn == train(whole, losses, epochs=2, steps=30)
    np.testing.assert_allclose(split.get_state()["averages"], whole.get_state()["averages"])


@pytest.mark.parametrize("steps", [7, 20, 35])  # windows end within epochs, and with them
def test_the_moving_average(steps):
    window, decay = 10, 0.8

    def losses(task, step):
        return {"a": 1.0, "b": 2.0, "c": 0.1}[task] + 0.01 * step

    schedule = schedules.Adaptive(decay, window)
    drawn = train(schedule, losses, epochs=140 // steps, steps=steps)
    averages = {}
    for number in range(14):
        found = collections.defaultdict(list)
        for step in range(number * window, (number + 1) * window):
            found[drawn[step]].append(losses(drawn[step], step))
        for name, values in found.items():
            mean, keep = np.mean(values), decay ** len(values)
            averages[name] = keep * averages.get(name, mean) + (1 - keep) * mean
        weights = {name: np.exp(average) for name, average in averages.items()}
        expected = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        shares = schedule.shares(SIZES, (number + 2) * window)
        assert shares == pytest.approx(expected, rel=1e-6)


def test_draws_do_not_depend_on_how_far_is_read_ahead():
    def losses(task, step):
        return {"a": 3.0, "b": 1.0, "c": 0.0}[task] * 0.99**step

    runs = [train(schedules.Adaptive(window=8), losses, 5, 21, ahead) for ahead in (1, 3, 8)]
    assert runs[0] == runs[1] == runs[2]
    with pytest.raises(ValueError, match="`window` must be more than .* ahead. Received: window=8"):
        train(schedules.Adaptive(window=8), losses, 5, 61, read_ahead=40)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_loss_that_is_not_finite_changes_nothing(value):
    def losses(task, step):
        return value if task == "a" else 1.0

    schedule = schedules.Adaptive(window=9)
    train(schedule, losses, 1, 45)
    # "a" has no average yet: it counts as the greatest one.
    assert schedule.shares(SIZES, 45) == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_errors():
    schedule = schedules.Adaptive()
    with pytest.raises(ValueError, match="`schedule` must be given to `kmm.data.mix` too"):
        schedule.on_train_begin()
    sets = {"x": sequences(9), "y": classes(9)}
    data.mix(sets, batch_size=3, schedule=schedule)
    with pytest.raises(ValueError, match="`schedule` must be new .*a schedule of the tasks x, y"):
        data.mix(sets, batch_size=3, schedule=schedule)
    schedule.set_params({"steps": 6})
    schedule.on_train_begin()
    schedule.on_epoch_begin(0)
    with pytest.raises(ValueError, match="`schedule` needs the loss of each task .*x, y"):
        schedule.on_epoch_end(0, {"loss": 1.0})
    with pytest.raises(ValueError, match="needs the size of .*x.*=Proportional"):
        data.mix({"x": sequences(9).repeat()}, 3, steps=2, schedule=schedules.Proportional())
    with pytest.raises(ValueError, match="`schedule` must be .*schedule='uniform'"):
        data.mix(sets, batch_size=3, schedule="uniform")
    with pytest.raises(ValueError, match="Either `batch_size` or `shares` must be given .*=None"):
        data.mix(sets, schedule=schedules.Uniform())
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer. .*=0"):
        data.mix(sets, batch_size=0, schedule=schedules.Uniform())
    mixed = data.mix(sets, shares={"x": 2, "y": 5}, schedule=schedules.Uniform())
    assert {len(y["x"]) for _, y in mixed} == {0, 2}
    assert {len(y["y"]) for _, y in mixed} == {0, 5}
