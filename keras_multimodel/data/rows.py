"""How many examples of each task a step holds."""

from collections.abc import Mapping


def rows_of_joint_steps(
    names: list[str], batch_size: int | None, shares: Mapping[str, int] | None
) -> dict[str, int]:
    """Returns the examples of each task in a step that holds all of them.

    Args:
        names: the tasks.
        batch_size: examples in a step, split evenly; the first tasks take what remains.
        shares: task name -> examples in a step.

    Returns:
        task name -> examples.

    Raises:
        ValueError: the arguments contradict each other or give a task no example.
    """
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


def rows_of_single_steps(
    names: list[str], batch_size: int | None, shares: Mapping[str, int] | None
) -> dict[str, int]:
    """Returns the examples of each task in a step that holds one task.

    Args:
        names: the tasks.
        batch_size: examples in a step, whatever its task.
        shares: task name -> examples in a step of the task.

    Returns:
        task name -> examples.

    Raises:
        ValueError: both are given or none is, or a number is not positive.
    """
    if (batch_size is None) == (shares is None):
        raise ValueError(
            "Either `batch_size` or `shares` must be given if a step holds one task. "
            f"Received: batch_size={batch_size}, shares={shares}"
        )
    if shares is not None:
        return rows_of_joint_steps(names, None, shares)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f"`batch_size` must be a positive integer. Received: batch_size={batch_size}"
        )
    return dict.fromkeys(names, batch_size)
