"""Paired differences with intervals, and how many seeds a question needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from keras_multimodel.argument_checks import inner_share, not_negative, positive, positive_int

# Few looks: each one costs a share of the error that is allowed.
LOOKS = (3, 5, 8, 12, 20)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with an interval that covers the true mean.

    Attributes:
        mean: mean of variant minus reference.
        low: lower end of the interval; `-inf` for a single pair.
        high: upper end of the interval.
        deviation: standard deviation of the differences; NaN for a single pair.
        count: number of pairs.
    """

    mean: float
    low: float
    high: float
    deviation: float
    count: int

    @property
    def verdict(self) -> str:
        """`"higher"` or `"lower"` if the interval leaves out 0, else `"cannot tell"`."""
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "cannot tell"


@dataclass(frozen=True)
class Decision:
    """The answer to one question, for which seeds were added until it was clear.

    Attributes:
        verdict: `"higher"`, `"lower"`, `"within the margin"`, or `"cannot tell"` after the last
            look.
        difference: the difference at the last look. Its interval is wider than that of a study
            with a fixed number of seeds: all looks together err as seldom as asked for.
        looks: the numbers of seeds that were looked at.
    """

    verdict: str
    difference: Difference
    looks: tuple[int, ...]


def paired_difference(
    values: ArrayLike, reference: ArrayLike, confidence: float = 0.95
) -> Difference:
    """Compares two variants, seed by seed, with Student's t.

    The interval is exact where the differences are normal, for two or more seeds.

    Args:
        values: `(seeds,)`, a metric of the variant.
        reference: `(seeds,)`, that of the reference with the same seeds.
        confidence: how often the interval covers the true mean, between 0 and 1.

    Returns:
        The difference.

    Raises:
        ValueError: there are not as many of both, or none; or `confidence` is out of range.

    Example:
        >>> found = kmm.ablation.paired_difference([3.0, 4.0, 5.0], [2.0, 2.0, 2.0])
        >>> found.mean, round(found.low, 2), round(found.high, 2), found.verdict
        (2.0, -0.48, 4.48, 'cannot tell')
    """
    inner_share("confidence", confidence)
    values, reference = np.asarray(values, "float64"), np.asarray(reference, "float64")
    if values.ndim != 1 or not values.size or values.shape != reference.shape:
        raise ValueError(
            "`values` must have one number for each of `reference`. "
            f"Received: values.shape={values.shape}, reference.shape={reference.shape}"
        )
    differences = values - reference
    count, mean = differences.size, float(differences.mean())
    if count < 2:
        return Difference(mean, float("-inf"), float("inf"), float("nan"), count)
    deviation = float(differences.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * deviation / count**0.5
    return Difference(mean, mean - half, mean + half, deviation, count)


def seeds_needed(
    deviation: float,
    difference: float,
    confidence: float = 0.95,
    power: float = 0.8,
    most: int = 1000,
) -> int | None:
    """Returns how many seeds let a paired t-test see a difference.

    Args:
        deviation: standard deviation of the paired differences, as a first study found it.
        difference: the true mean difference that should be seen.
        confidence: 1 minus the allowed share of false alarms.
        power: how often the difference is to be seen.
        most: the largest number that is tried.

    Returns:
        The smallest number of seeds, 2 or more, or None if it is above `most`.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> kmm.ablation.seeds_needed(deviation=1.0, difference=1.0)
        10
    """
    not_negative("deviation", deviation)
    positive("difference", abs(difference))
    inner_share("confidence", confidence)
    inner_share("power", power)
    effect = abs(difference) / max(deviation, 1e-300)
    for count in range(2, positive_int("most", most) + 1):
        critical = stats.t.ppf((1 + confidence) / 2, count - 1)
        # The test statistic has a noncentral t distribution. An effect of 1e3 deviations is seen
        # always; beyond it SciPy returns NaN.
        seen = stats.nct.sf(critical, count - 1, min(effect, 1e3) * count**0.5)
        if seen >= power:
            return count
    return None


def decide(
    differences: Callable[[int], Sequence[float]],
    margin: float = 0.0,
    looks: Sequence[int] = LOOKS,
    confidence: float = 0.95,
) -> Decision:
    """Adds seeds until a question is decided, with a bounded error.

    At each look the interval has confidence `1 - (1 - confidence) / len(looks)`. By the union
    bound all intervals together cover the true mean with `confidence`, so it does not matter that
    the study stops at a look that pleases. This holds for any number of seeds if the differences
    are normal: each interval is exact.

    Args:
        differences: returns the paired differences of the first `n` seeds, at each look for a
            larger `n`.
        margin: a difference below it is of no interest: the question is also decided when the
            interval lies within `(-margin, margin)`. 0 for never.
        looks: numbers of seeds after which to look, in ascending order.
        confidence: 1 minus the share of wrong decisions that is allowed.

    Returns:
        The decision.

    Raises:
        ValueError: `looks` are not ascending numbers of at least 2, or a number is out of range.

    Example:
        >>> values = [1.1, 0.9, 1.0, 1.2, 0.8]
        >>> kmm.ablation.decide(lambda n: values[:n], looks=(3, 5)).verdict
        'higher'

    Reference:
        Alpha spending: Lan and DeMets 1983, Biometrika 70(3), here with equal shares and the union
        bound, which needs no simulation and is exact for few seeds.
    """
    not_negative("margin", margin)
    inner_share("confidence", confidence)
    looks = [positive_int("looks", look, minimum=2) for look in looks]
    if not looks or sorted(set(looks)) != looks:
        raise ValueError(f"`looks` must be ascending and not empty. Received: looks={looks}")
    each = 1 - (1 - confidence) / len(looks)
    for number, count in enumerate(looks, start=1):
        values = list(differences(count))
        found = paired_difference(values, np.zeros(len(values)), each)
        within = -margin < found.low and found.high < margin
        verdict = "within the margin" if within else found.verdict
        if verdict != "cannot tell":
            break
    return Decision(verdict, found, tuple(looks[:number]))
