"""How many examples, or ids, of each task a step holds."""

from collections.abc import Mapping

import tensorflow as tf

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.mixing.task_batches import has_length


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
    if not budgets or not set(budgets) <= set(sequential):
        raise ValueError(
            "`token_budget` must be of tasks with inputs or targets of variable length: "
            f"{', '.join(sequential) or 'there is none'}. Received: token_budget={token_budget}"
        )
    for name in budgets:
        if datasets[name].cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                f"`token_budget` needs all lengths of `datasets['{name}']`, which is infinite. "
                f"Received: token_budget={token_budget}"
            )
    if isinstance(token_budget, Mapping):
        return {name: positive_int(f"token_budget[{name!r}]", n) for name, n in budgets.items()}
    return dict.fromkeys(budgets, positive_int("token_budget", token_budget))


def rows_of_each_task(
    names: list[str], batch_size: int | None, shares: Mapping[str, int] | None, joint: bool
) -> dict[str, int]:
    """Returns how many examples a step holds of each task that has no token budget.

    Args:
        names: those tasks.
        batch_size: examples in a step; a joint step is split evenly, the first tasks take what
            remains.
        shares: task name -> examples in a step.
        joint: whether a step holds all tasks, or one.

    Returns:
        task name -> examples.

    Raises:
        ValueError: the arguments contradict each other, or leave a task without an example.
    """
    received = f"Received: batch_size={batch_size}, shares={shares}"
    if not names:
        if batch_size is not None or shares is not None:
            raise ValueError(
                "`batch_size` and `shares` must be None if every task has a token budget. "
                f"{received}"
            )
        return {}
    # Of a joint step both may be given, and must agree.
    if (shares is None) if batch_size is None else (shares is not None and not joint):
        raise ValueError(
            "Either `batch_size` or `shares` must be given (both only if a step holds all tasks). "
            f"{received}"
        )
    if shares is not None:
        return _checked_shares(names, batch_size, shares)
    if not joint:
        return dict.fromkeys(names, positive_int("batch_size", batch_size))
    batch_size = positive_int("batch_size", batch_size)
    if batch_size < len(names):
        raise ValueError(
            f"`batch_size` must be at least one for each of {len(names)} tasks. {received}"
        )
    each, rest = divmod(batch_size, len(names))
    return {name: each + (index < rest) for index, name in enumerate(names)}


def _checked_shares(names, batch_size, shares):
    if not isinstance(shares, Mapping) or set(shares) != set(names):
        raise ValueError(
            f"`shares` must have the tasks of `datasets`: {', '.join(names)}. "
            f"Received: shares={shares}"
        )
    rows = {name: positive_int(f"shares[{name!r}]", share) for name, share in shares.items()}
    if batch_size not in (None, sum(rows.values())):
        raise ValueError(
            f"`batch_size` must be the sum of `shares`, {sum(rows.values())}, or None. "
            f"Received: batch_size={batch_size}"
        )
    return rows
