import numpy as np
import pytest
from scipy import stats

from keras_multimodel.ablation import decide, paired_difference, seeds_needed


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_the_truth_in_95_of_100_studies(seeds):
    random = np.random.default_rng(7)
    truth = 0.3
    # What a seed adds to both sides is far larger than what the study looks for.
    common = random.normal(0.0, 10.0, size=(1000, seeds))
    reference = common + random.normal(0.0, 0.5, size=common.shape)
    values = common + truth + random.normal(0.0, 0.5, size=common.shape)
    found = [paired_difference(*pair) for pair in zip(values, reference)]
    covered = np.mean([study.low <= truth <= study.high for study in found])
    assert 0.93 <= covered <= 0.97


def test_the_interval_is_that_of_scipy():
    values, reference = np.random.default_rng(0).normal(size=(2, 7))
    expected = stats.ttest_rel(values, reference).confidence_interval(0.9)
    found = paired_difference(values, reference, confidence=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(values - reference))
    assert found.count == 7


def test_verdicts():
    assert paired_difference([2.0, 2.1, 1.9], [0.0, 0.0, 0.0]).verdict == "higher"
    assert paired_difference([0.0, 0.0, 0.0], [2.0, 2.1, 1.9]).verdict == "lower"
    alone = paired_difference([2.0], [0.0])
    assert (alone.verdict, alone.mean, alone.low) == ("cannot tell", 2.0, float("-inf"))


def _stream(random, truth):
    values = random.normal(truth, 1.0, size=20)
    return lambda count: values[:count]


def test_adding_seeds_until_decided_errs_in_at_most_5_of_100():
    random = np.random.default_rng(3)
    # No difference at all: any verdict about its sign is wrong.
    none = [decide(_stream(random, 0.0)).verdict for _ in range(1000)]
    assert np.mean(np.array(none) != "cannot tell") <= 0.05
    # A difference: the other sign is wrong, and so is that it does not matter.
    some = [decide(_stream(random, 0.6), margin=0.5) for _ in range(1000)]
    wrong = [d.verdict in ("lower", "within the margin") for d in some]
    assert np.mean(wrong) <= 0.05
    # Looking at a plain interval each time would err more often than that.
    naive = [
        any(
            paired_difference(v(n), np.zeros(n)).verdict != "cannot tell" for n in (3, 5, 8, 12, 20)
        )
        for v in (_stream(random, 0.0) for _ in range(1000))
    ]
    assert np.mean(naive) > 0.08


def test_a_large_difference_needs_few_seeds():
    random = np.random.default_rng(5)
    found = [decide(_stream(random, -6.0)) for _ in range(100)]
    assert {decision.verdict for decision in found} == {"lower"}
    assert np.mean([len(decision.looks) for decision in found]) < 3
    equal = decide(lambda count: [0.01, -0.01, 0.0][:count], margin=0.5)
    assert (equal.verdict, equal.looks) == ("within the margin", (3,))


@pytest.mark.parametrize("effect", [0.7, 1.5])
def test_seeds_needed_give_the_power(effect):
    count = seeds_needed(deviation=1.0, difference=effect, power=0.8)
    samples = np.random.default_rng(1).normal(effect, 1.0, size=(4000, count))
    seen = stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05
    assert 0.78 <= seen.mean() <= 0.9
    fewer = stats.ttest_1samp(samples[:, : count - 1], 0.0, axis=1).pvalue < 0.05
    assert fewer.mean() < 0.82


def test_seeds_needed_at_the_ends():
    assert seeds_needed(0.0, 1.0) == 2
    assert seeds_needed(1.0, 1e-6, most=20) is None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: paired_difference([1.0], [1.0, 2.0]), r"`values` must .*\(1,\).*\(2,\)"),
        (lambda: paired_difference([], []), r"`values` must .*\(0,\)"),
        (lambda: paired_difference([1], [1], confidence=95), "`confidence` must .*confidence=95"),
        (lambda: seeds_needed(-1.0, 1.0), "`deviation` must .*deviation=-1.0"),
        (lambda: seeds_needed(1.0, 0.0), "`difference` must .*difference=0.0"),
        (lambda: seeds_needed(1.0, 1.0, power=1), "`power` must .*power=1"),
        (lambda: decide(lambda n: [0.0] * n, looks=(5, 3)), r"`looks` must .*looks=\[5, 3\]"),
        (lambda: decide(lambda n: [0.0] * n, looks=(1,)), "`looks` must .*looks=1"),
        (lambda: decide(lambda n: [0.0] * n, margin=-1), "`margin` must .*margin=-1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
