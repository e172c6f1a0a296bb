"""Scaling a variant's width until it costs what the reference costs."""

import math
from collections.abc import Callable

TOLERANCE = 0.02
_REACH = 64  # widths that may be refused around one that is asked for


def match_width(width: int, target: float, measure: Callable[[int], float]) -> int:
    """Returns a width whose cost is within 2 % of a target.

    Args:
        width: where the search starts.
        target: the cost to meet.
        measure: width -> cost, a function that grows. A width at which it raises ValueError, such
            as one that the heads of attention do not divide, gives way to the nearest other.

    Returns:
        The width that was found first.

    Raises:
        ValueError: no integer is near enough: the costs of its neighbors are in the message; or the
            cost does not depend on the width; or no width near one that is asked for can be
            measured.
    """
    found: dict[int, float] = {}
    refused: dict[int, ValueError] = {}
    below, above = 0, None
    while True:
        near = _measure_near(width, below, above, measure, found, refused)
        if near is None:
            cause = list(refused.values())[-1] if refused else None
            if cause is not None and not found:
                raise cause
            raise _none_is_near(found, target, below, above) from cause
        width = near
        if abs(found[width] - target) <= TOLERANCE * target:
            return width
        if len(found) > 3 and len(set(found.values())) == 1:  # else it would grow without end
            raise ValueError(
                "`width` must change what a variant costs. "
                f"Received: {found[width]:g} for each of the widths {list(found)}"
            )
        if found[width] < target:
            below = width
        else:
            above = width
        if above is not None and above - below <= 1:
            raise _none_is_near(found, target, below, above)
        width = _next(found, target, below, above)


def _measure_near(guess, below, above, measure, found, refused) -> int | None:
    """Measures the width between the bounds that is nearest to a guess and not refused."""
    between = range(below + 1, guess + _REACH if above is None else above)
    for width in sorted(set(between) - set(refused), key=lambda width: abs(width - guess))[:_REACH]:
        try:
            found[width] = measure(width)
            return width
        except ValueError as error:
            refused[width] = error
    return None


def _none_is_near(found, target, below, above):
    costs = {k: found[k] for k in sorted(found) if k in (below, above)}
    return ValueError(
        "`width` must reach the cost of the reference within 2 %; let it scale something "
        f"finer. Received: {target:g} of the reference, {costs} for the nearest widths"
    )


def _next(found, target, below, above):
    """Returns a width between the bounds, by the power law through the last two costs."""
    # A cost grows between linearly and by the square of the width.
    (w, cost), slope = list(found.items())[-1], 1.5
    if len(found) > 1 and cost > 0:
        v, other = list(found.items())[-2]
        if other > 0 and cost != other:
            slope = min(3.0, max(0.3, math.log(cost / other) / math.log(w / v)))
    guess = round(w * (target / max(cost, 1e-9)) ** (1 / slope))
    if above is None:
        return min(max(guess, below + 1), 8 * max(below, 1))
    return min(max(guess, below + 1), above - 1)
