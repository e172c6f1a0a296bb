"""How many examples of each task a step holds."""

from collections.abc import Mapping

import tensorflow as tf

from keras_multimodel.data.buckets import has_length


def token_budgets(
    datasets: Mapping[str, tf.data.Dataset], token_budget: int | Mapping[str, int] | None
) -> dict[str, int]:
    """Returns the budget of each task that has one.

    Args:
        datasets: task name -> examples.
        token_budget: the budget of all tasks with sequences, or task name -> budget, or None.

    Returns:
        task name -> budget.

    Raises:
        ValueError: a budget is not positive, or a task has no sequence or is unknown or infinite.
    """
    if token_budget is None:
        return {}
    sequential = [
        name
        for name, dataset in datasets.items()
        if any(has_length(spec) for spec in dataset.element_spec.values())
    ]
    budgets = token_budget
    if not isinstance(budgets, Mapping):
        budgets = dict.fromkeys(sequential, token_budget)
    unfit = [name for name in budgets if name not in sequential]
    if unfit or not budgets:
        raise ValueError(
            "`token_budget` must be of tasks with inputs or targets of variable length: "
            f"{', '.join(sequential) or 'there is none'}. Received: token_budget={token_budget}"
        )
    for name, budget in budgets.items():
        if not isinstance(budget, int) or budget < 1:
            raise ValueError(
                f"`token_budget` must be positive integers. Received: token_budget={token_budget}"
            )
        if datasets[name].cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                f"`token_budget` needs all lengths of `datasets['{name}']`, which is infinite. "
                f"Received: token_budget={token_budget}"
            )
    return dict(budgets)


def rows_of_steps(
    names: list[str], batch_size: int | None, shares: Mapping[str, int] | None, joint: bool
) -> dict[str, int]:
    """Returns the examples of each task without a token budget in a step that trains it.

    Args:
        names: those tasks.
        batch_size: examples in a step; a joint one is split evenly, the first tasks take what
            remains.
        shares: task name -> examples in a step.
        joint: whether a step holds all tasks, or one.

    Returns:
        task name -> examples.

    Raises:
        ValueError: the arguments contradict each other or give a task no example.
    """
    if not names:
        if batch_size is not None or shares is not None:
            raise ValueError(
                "`batch_size` and `shares` must be None if every task has a token budget. "
                f"Received: batch_size={batch_size}, shares={shares}"
            )
        return {}
    rows = _rows_of_joint_steps if joint else _rows_of_single_steps
    return rows(names, batch_size, shares)


def _rows_of_joint_steps(names, batch_size, shares):
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < len(names)):
        raise ValueError(
            f"`batch_size` must be an integer, at least one for each of {len(names)} tasks. "
            f"Received: batch_size={batch_size}"
        )
    if shares is None:
        if batch_size is None:
            raise ValueError("`batch_size` or `shares` must be given. Received: neither")
        each, rest = divmod(batch_size, len(names))
        return {name: each + (index < rest) for index, name in enumerate(names)}
    if set(shares) != set(names):
        raise ValueError(
            f"`shares` must have the tasks of `datasets`: {', '.join(names)}. "
            f"Received: shares={dict(shares)}"
        )
    for name, share in shares.items():
        if not isinstance(share, int) or share < 1:
            raise ValueError(
                f"`shares['{name}']` must be a positive integer. Received: shares={dict(shares)}"
            )
    if batch_size not in (None, sum(shares.values())):
        raise ValueError(
            f"`batch_size` must be the sum of `shares`, {sum(shares.values())}, or None. "
            f"Received: batch_size={batch_size}"
        )
    return dict(shares)


def _rows_of_single_steps(names, batch_size, shares):
    if (batch_size is None) == (shares is None):
        raise ValueError(
            "Either `batch_size` or `shares` must be given if a step holds one task. "
            f"Received: batch_size={batch_size}, shares={shares}"
        )
    if shares is not None:
        return _rows_of_joint_steps(names, None, shares)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f"`batch_size` must be a positive integer. Received: batch_size={batch_size}"
        )
    return dict.fromkeys(names, batch_size)
