"""Numbers against slow definitions, scikit-learn, and simulated truth."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from speechprompt import metrics
from speechprompt.errors import UsageError

LABELS = ("no", "stop", "yes")
label_pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)
trials = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: len({positive for _, positive in rows}) == 2
)


def slow_equal_error_rate(rows: list[tuple[int, bool]]) -> Fraction:
    """Walk thresholds from "accept all" to "accept none" and cut the segment that crosses the diagonal."""
    positives = [score for score, positive in rows if positive]
    negatives = [score for score, positive in rows if not positive]
    before = (Fraction(0), Fraction(1))
    for threshold in [*sorted({score for score, _ in rows}), math.inf]:
        misses = Fraction(sum(score < threshold for score in positives), len(positives))
        alarms = Fraction(sum(score >= threshold for score in negatives), len(negatives))
        if misses >= alarms:
            gap = before[1] - before[0]
            share = gap / (gap + misses - alarms)
            return before[0] + share * (misses - before[0])
        before = (misses, alarms)
    raise AssertionError("unreachable: accepting none misses all")


@given(trials)
def test_equal_error_rate_is_the_slow_definition(rows: list[tuple[int, bool]]) -> None:
    rate = metrics.equal_error_rate([score for score, _ in rows], [positive for _, positive in rows])
    assert rate == pytest.approx(float(slow_equal_error_rate(rows)), abs=1e-12)


@given(trials)
def test_equal_error_rate_depends_on_order_only_and_mirrors(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows])
    positive = np.array([flag for _, flag in rows])
    rate = metrics.equal_error_rate(scores, positive)
    assert metrics.equal_error_rate(np.exp(scores) * 5, positive) == pytest.approx(rate, abs=1e-12)
    assert metrics.equal_error_rate(-scores, ~positive) == pytest.approx(rate, abs=1e-12)
    assert metrics.equal_error_rate(-scores, positive) == pytest.approx(1 - rate, abs=1e-12)


def test_equal_error_rate_of_constant_perfect_and_infinite_scores() -> None:
    assert metrics.equal_error_rate([1, 1, 1], [True, False, False]) == 0.5
    assert metrics.equal_error_rate([0.1, 0.2, 0.9], [False, False, True]) == 0
    assert metrics.equal_error_rate(
        [-math.inf, -math.inf, -math.inf, math.inf], [0, 0, 1, 1]
    ) == pytest.approx(1 / 3)


@given(label_pairs)
def test_label_metrics_match_sklearn(pairs: list[tuple[str, str]]) -> None:
    true, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    assert metrics.accuracy(true, predicted) == pytest.approx(sklearn_metrics.accuracy_score(true, predicted))
    f1 = sklearn_metrics.f1_score(true, predicted, average="macro")
    assert metrics.macro_f1(true, predicted) == pytest.approx(f1)
    recall = sklearn_metrics.recall_score(true, predicted, average="macro", labels=sorted(set(true)))
    assert metrics.unweighted_average_recall(true, predicted) == pytest.approx(recall)
    matrix = sklearn_metrics.confusion_matrix(true, predicted, labels=LABELS)
    np.testing.assert_array_equal(metrics.confusion_matrix(true, predicted, LABELS), matrix)


@given(st.integers(1, 5), st.integers(0, 2**31))
def test_top_k_matches_a_ranking_and_top_one_is_argmax(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, true = rng.integers(0, 3, (20, 5)).astype(float), rng.integers(0, 5, 20)
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert metrics.top_k_accuracy(true, scores, k) == np.mean(
        [t in r for t, r in zip(true, ranked, strict=True)]
    )
    assert metrics.top_k_accuracy(true, scores, 1) == metrics.accuracy(true, scores.argmax(axis=1))


def test_expected_calibration_error() -> None:
    confidences, right = [0.95, 0.95, 0.55, 0.55], [True, True, True, False]
    assert metrics.expected_calibration_error(confidences, right, 10) == pytest.approx(0.05)
    assert metrics.expected_calibration_error([1.0, 0.0], [True, False]) == 0
    bins = metrics.calibration_bins(confidences, right, 10)
    assert [(b.low, b.count, b.accuracy) for b in bins] == [(0.5, 2, 0.5), (0.9, 2, 1.0)]


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40), st.integers(1, 7))
def test_expected_calibration_error_is_the_slow_definition(
    rows: list[tuple[int, bool]], bin_count: int
) -> None:
    """Exact shares, each looked up in the bins (0, 1/n], (1/n, 2/n], ...; zero belongs to the first."""
    total = Fraction(0)
    for place in range(bin_count):
        low, high = Fraction(place, bin_count), Fraction(place + 1, bin_count)
        inside = [
            (Fraction(share, 20), right)
            for share, right in rows
            if low < Fraction(share, 20) <= high or (share == 0 and place == 0)
        ]
        total += abs(sum((share for share, _ in inside), Fraction(0)) - sum(right for _, right in inside))
    found = metrics.expected_calibration_error([n / 20 for n, _ in rows], [r for _, r in rows], bin_count)
    assert found == pytest.approx(float(total / len(rows)), abs=1e-9)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 5))
def test_mcnemar_is_the_binomial_tail(only_first: int, only_second: int, both: int) -> None:
    first = [True] * only_first + [False] * only_second + [True] * (both + 1)
    second = [False] * only_first + [True] * only_second + [True] * (both + 1)
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert metrics.mcnemar(first, second) == metrics.McNemar(only_first, only_second, min(1, 2 * tail))


def test_mcnemar_of_many_utterances_neither_overflows_nor_rounds_to_one() -> None:
    first = np.r_[np.ones(26_000), np.zeros(24_000)]
    result = metrics.mcnemar(first, 1 - first)
    assert 0 < result.p_value < 1e-15


@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(0, 2**31))
def test_intervals_are_seeded_ordered_and_within_the_values(right: list[bool], seed: int) -> None:
    interval = metrics.accuracy_interval(right, seed=seed, resamples=200)
    assert interval == metrics.accuracy_interval(right, seed=seed, resamples=200)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.estimate == pytest.approx(np.mean(right))


def test_bootstrap_matches_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    interval = metrics.bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_speakers_that_fail_together_widen_the_interval_and_singletons_change_nothing() -> None:
    right = np.repeat(np.arange(20) % 2 == 0, 50)
    speakers = [f"s{i // 50}" for i in range(1000)]
    alone, together = metrics.bootstrap_interval(right), metrics.bootstrap_interval(right, speakers)
    assert together.high - together.low > 4 * (alone.high - alone.low)
    names = [f"{i:04d}" for i in range(1000)]
    assert metrics.bootstrap_interval(right, names) == alone


def test_unequal_speakers_are_weighted_by_their_utterances() -> None:
    values, speakers = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    interval = metrics.bootstrap_interval(values, speakers)
    assert interval == metrics.Interval(0.75, 0.0, 1.0)


def test_one_seed_is_the_flat_bootstrap_and_repeating_it_adds_nothing() -> None:
    right = np.random.default_rng(1).random(300) < 0.8
    flat = metrics.bootstrap_interval(right)
    assert metrics.hierarchical_interval(right[None]) == flat
    copied = metrics.hierarchical_interval(np.stack([right] * 5))
    assert copied.high - copied.low == pytest.approx(flat.high - flat.low, rel=0.1)


def test_intervals_cover_the_truth() -> None:
    """Seeds and speakers both vary; the 95 % interval holds the true mean in about 95 of 100 worlds.

    Ten seeds and thirty speakers are few, and a percentile bootstrap of few draws is a little short.
    """
    rng, covered, worlds = np.random.default_rng(7), 0, 150
    speakers = [f"s{i // 5}" for i in range(150)]
    for world in range(worlds):
        seeds, voices = rng.normal(0, 0.3, (10, 1)), np.repeat(rng.normal(0, 0.5, 30), 5)
        values = 1 + seeds + voices + rng.normal(0, 1, (10, 150))
        interval = metrics.hierarchical_interval(values, speakers, seed=world, resamples=300)
        covered += interval.low <= 1 <= interval.high
    assert 0.87 <= covered / worlds <= 0.99


def test_all_right_is_not_certainty() -> None:
    interval = metrics.accuracy_interval([True] * 30)
    assert interval.estimate == interval.high == 1
    assert interval.low == pytest.approx(0.8843, abs=1e-4)
    assert metrics.accuracy_interval([False] * 30).high == pytest.approx(1 - interval.low)


def test_paired_difference_sees_what_separate_intervals_cannot() -> None:
    rng = np.random.default_rng(3)
    first = rng.random(1000) < 0.7
    second = first & (rng.random(1000) < 0.97)
    difference = metrics.paired_difference_interval(first, second)
    assert difference.excludes_zero
    assert difference.estimate == pytest.approx(first.mean() - second.mean())
    assert metrics.bootstrap_interval(first).low < metrics.bootstrap_interval(second).high
    assert not metrics.paired_difference_interval(first, first).excludes_zero
    against_seeds = metrics.paired_difference_interval(np.stack([first, first, second]), second)
    assert against_seeds.estimate == pytest.approx(difference.estimate * 2 / 3)


def test_macro_f1_interval_holds_its_estimate() -> None:
    rng = np.random.default_rng(5)
    true = rng.choice(LABELS, 400, p=[0.7, 0.2, 0.1])
    predicted = np.where(rng.random(400) < 0.8, true, rng.choice(LABELS, 400))
    interval = metrics.macro_f1_interval(true, predicted, resamples=300)
    assert interval.low < interval.estimate < interval.high
    assert interval.estimate == metrics.macro_f1(true, predicted)


@pytest.mark.parametrize(("speakers", "clips"), [(6, 50), (60, 20)])
def test_macro_f1_interval_holds_its_estimate_where_each_speaker_is_a_label(
    speakers: int, clips: int
) -> None:
    rng = np.random.default_rng(3)
    true = np.repeat([f"s{i:02}" for i in range(speakers)], clips)
    predicted = np.where(rng.random(len(true)) < 0.9, true, rng.permutation(true))
    interval = metrics.macro_f1_interval(true, predicted, true.tolist(), resamples=300)
    assert interval.low <= interval.estimate <= interval.high
    assert interval.high - interval.low < 0.2
    never = np.append(predicted[1:], "nobody")  # a label that is no truth anywhere counts where it is said
    with_it = metrics.macro_f1_interval(true, never, resamples=300)
    assert with_it.low <= with_it.estimate <= with_it.high


def test_macro_f1_interval_is_that_of_a_written_out_bootstrap_over_speakers() -> None:
    """Speakers drawn by hand, every draw scored by scikit-learn; the random numbers are others, so about equal."""
    rng = np.random.default_rng(11)
    true = rng.choice(LABELS, 240, p=[0.6, 0.3, 0.1])
    speakers = np.repeat([f"s{i}" for i in range(12)], 20)
    skill = np.repeat(rng.uniform(0.3, 0.95, 12), 20)
    predicted = np.where(rng.random(240) < skill, true, rng.choice(LABELS, 240))
    drawn = []
    for _ in range(300):
        rows = np.concatenate([np.flatnonzero(speakers == f"s{i}") for i in rng.integers(12, size=12)])
        drawn.append(sklearn_metrics.f1_score(true[rows], predicted[rows], average="macro"))
    interval = metrics.macro_f1_interval(true, predicted, speakers.tolist())
    assert [interval.low, interval.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    alone = metrics.macro_f1_interval(true, predicted)
    assert interval.high - interval.low > 1.2 * (alone.high - alone.low)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.accuracy([], []),
        lambda: metrics.accuracy(["a"], ["a", "b"]),
        lambda: metrics.macro_f1([], []),
        lambda: metrics.unweighted_average_recall([], []),
        lambda: metrics.confusion_matrix(["a"], ["b"], ["a"]),
        lambda: metrics.confusion_matrix(["a"], ["a"], ["a", "a"]),
        lambda: metrics.top_k_accuracy([0], [[1.0, 2.0]], 3),
        lambda: metrics.top_k_accuracy([2], [[1.0, 2.0]], 1),
        lambda: metrics.top_k_accuracy([], np.zeros((0, 2)), 1),
        lambda: metrics.equal_error_rate([1, 2], [False, False]),
        lambda: metrics.equal_error_rate([1, 2], [True, True]),
        lambda: metrics.equal_error_rate([math.nan, 2], [True, False]),
        lambda: metrics.expected_calibration_error([1.5], [True]),
        lambda: metrics.expected_calibration_error([], []),
        lambda: metrics.bootstrap_interval([]),
        lambda: metrics.bootstrap_interval([math.nan]),
        lambda: metrics.bootstrap_interval([1, 0], ["a", "a"]),
        lambda: metrics.bootstrap_interval([1, 0], ["a"]),
        lambda: metrics.hierarchical_interval([1, 0]),
        lambda: metrics.paired_difference_interval([1, 0], [1]),
        lambda: metrics.paired_difference_interval(np.zeros((3, 4)), np.zeros((2, 4))),
        lambda: metrics.mcnemar([], []),
    ],
)
def test_what_has_no_value_is_refused_in_one_line(call: object) -> None:
    with pytest.raises(UsageError) as refusal:
        call()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)
