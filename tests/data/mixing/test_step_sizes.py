import pytest

from keras_multimodel.data.mixing.step_sizes import rows_of_each_task, token_budgets
from tests.data.mixing.test_mix import classes, sequences

SETS = {"text": sequences(3), "image": classes(3), "more": sequences(4)}


@pytest.mark.parametrize(
    "token_budget,expected",
    [
        (None, {}),
        (50, {"text": 50, "more": 50}),  # images have no length
        ({"more": 9}, {"more": 9}),
        ({"more": 9, "text": 7}, {"more": 9, "text": 7}),
    ],
)
def test_token_budgets(token_budget, expected):
    assert token_budgets(SETS, token_budget) == expected


@pytest.mark.parametrize("token_budget", [-1, 2.0, "9", {"text": 0}])
def test_token_budgets_that_are_no_number(token_budget):
    with pytest.raises(
        ValueError, match="`token_budget.*` must be a positive integer. Received: tok"
    ):
        token_budgets(SETS, token_budget)


def test_a_token_budget_needs_sequences():
    with pytest.raises(ValueError, match="there is none. Received: token_budget=9"):
        token_budgets({"image": SETS["image"]}, 9)


@pytest.mark.parametrize(
    "batch_size,shares,joint,expected",
    [
        (8, None, True, {"a": 3, "b": 3, "c": 2}),
        (3, None, True, {"a": 1, "b": 1, "c": 1}),
        (None, {"c": 1, "a": 2, "b": 5}, True, {"a": 2, "b": 5, "c": 1}),
        (8, {"a": 2, "b": 5, "c": 1}, True, {"a": 2, "b": 5, "c": 1}),
        (8, None, False, {"a": 8, "b": 8, "c": 8}),
        (None, {"a": 2, "b": 5, "c": 1}, False, {"a": 2, "b": 5, "c": 1}),
    ],
)
def test_rows_of_each_task(batch_size, shares, joint, expected):
    assert rows_of_each_task(["a", "b", "c"], batch_size, shares, joint) == expected


def test_rows_if_every_task_has_a_budget():
    assert rows_of_each_task([], None, None, joint=True) == {}
    with pytest.raises(ValueError, match="must be None if .*Received: batch_size=3, shares=None"):
        rows_of_each_task([], 3, None, joint=False)


def test_one_task_in_a_step_takes_batch_size_or_shares():
    with pytest.raises(ValueError, match="Either .* must be given .*batch_size=2, shares={'a': 2}"):
        rows_of_each_task(["a"], 2, {"a": 2}, joint=False)
