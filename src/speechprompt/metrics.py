"""Numbers from scores and labels, nothing else: no files, no models, no torch.

Everything that has no value raises UsageError instead of returning NaN. Intervals are 95 % percentile
bootstraps with a seed; where speakers are known, whole speakers are drawn, because the utterances of one
speaker succeed and fail together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechprompt.errors import UsageError

RESAMPLES = 2000
CONFIDENCE = 0.95
CALIBRATION_BINS = 15
_CHUNK_DRAWS = 1 << 20

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between the ends of its 95 % interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of zero: what this project means by "beats"."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class McNemar:
    """How often only one of two classifiers is right, and how likely so uneven a split is by chance."""

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Answers whose confidence lies in (low, high]: how many, how confident and how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def accuracy(true: ArrayLike, predicted: ArrayLike) -> float:
    """Share of labels (B,) that are right. UsageError on empty or unequal lists, here and below."""
    first, second = _paired(true, predicted)
    return float(np.mean(first == second))


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, labels: Sequence[str]) -> Integers:
    """Counts (C, C): a row per true label, a column per predicted one, in the order of `labels`.

    UsageError when a label is listed twice, or occurs without being listed.
    """
    rows, columns = (_label_indices(values, labels) for values in _paired(true, predicted))
    return _confusion(rows, columns, len(labels))


def macro_f1(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean F1 over the labels that occur, as a truth or as a prediction."""
    return _macro_f1_of(_confusion(*_indexed(true, predicted)))


def unweighted_average_recall(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean recall over the labels that occur as a truth (balanced accuracy)."""
    counts = _confusion(*_indexed(true, predicted))
    occurring = counts.sum(axis=1) > 0
    return float(np.mean(np.diag(counts)[occurring] / counts.sum(axis=1)[occurring]))


def top_k_accuracy(true_indices: ArrayLike, scores: ArrayLike, k: int) -> float:
    """Share of rows whose true label is among the k best of `scores` (B, C).

    Equal scores rank by label order, as argmax does, so k=1 is the accuracy. UsageError unless k is 1 to C.
    """
    truth, table = np.asarray(true_indices), np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or truth.shape != table.shape[:1] or not table.size:
        raise UsageError(f"scores of shape {table.shape} do not fit {truth.shape} true labels")
    if not 1 <= k <= table.shape[1]:
        raise UsageError(f"top {k} is not defined for {table.shape[1]} labels")
    if truth.min() < 0 or truth.max() >= table.shape[1]:
        raise UsageError(f"a true label lies outside the {table.shape[1]} scored ones")
    own = np.take_along_axis(table, truth[:, None], axis=1)
    earlier = np.arange(table.shape[1]) < truth[:, None]
    rank = np.sum((table > own) | ((table == own) & earlier), axis=1)
    return float(np.mean(rank < k))


def equal_error_rate(scores: ArrayLike, is_positive: ArrayLike) -> float:
    """The error rate at which false alarms equal misses; a higher score (B,) speaks for the positive.

    Equal scores cross the threshold together; between two thresholds the rates are joined by a line: this is
    where the ROC curve meets the diagonal. UsageError without positives, without negatives, or with NaN.
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(is_positive).astype(bool)
    if values.ndim != 1 or values.shape != positive.shape:
        raise UsageError(f"scores of shape {values.shape} do not fit {positive.shape} truths")
    if not positive.any() or positive.all():
        raise UsageError("an equal error rate needs at least one positive and one negative utterance")
    if np.isnan(values).any():
        raise UsageError("a score is not a number")
    order = np.argsort(values)
    ranked = values[order]
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    misses = np.r_[0, np.cumsum(positive[order])[ends]] / positive.sum()
    false_alarms = 1 - np.r_[0, np.cumsum(~positive[order])[ends]] / (~positive).sum()
    gap = misses - false_alarms
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(misses[after - 1] + share * (misses[after] - misses[after - 1]))


def calibration_bins(
    confidences: ArrayLike, is_right: ArrayLike, bin_count: int = CALIBRATION_BINS
) -> list[CalibrationBin]:
    """Answers by confidence (B,) in bins of equal width over (0, 1]; empty bins are left out."""
    _paired(confidences, is_right)
    confidence, right = np.asarray(confidences, dtype=np.float64), np.asarray(is_right, dtype=bool)
    if not (np.all(confidence >= 0) and np.all(confidence <= 1)):
        raise UsageError("a confidence lies outside 0 to 1; calibration needs probabilities, not logits")
    which = np.clip(np.ceil(confidence * bin_count).astype(int) - 1, 0, bin_count - 1)
    return [
        CalibrationBin(
            low=index / bin_count,
            high=(index + 1) / bin_count,
            count=int(np.sum(which == index)),
            confidence=float(confidence[which == index].mean()),
            accuracy=float(np.mean(right[which == index])),
        )
        for index in np.unique(which).tolist()
    ]


def expected_calibration_error(
    confidences: ArrayLike, is_right: ArrayLike, bin_count: int = CALIBRATION_BINS
) -> float:
    """Mean distance between confidence and accuracy over `calibration_bins`, weighted by their counts."""
    bins = calibration_bins(confidences, is_right, bin_count)
    total = sum(b.count for b in bins)
    return float(sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / total)


def bootstrap_interval(
    values: ArrayLike, groups: Sequence[str] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Mean of `values` (B,) with its interval: utterances are drawn, or whole groups (speakers) where given.

    UsageError on no values, on values that are not finite, and on fewer than two groups.
    """
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1:
        raise UsageError(f"values must be a flat list, not of shape {row.shape}")
    return hierarchical_interval(row[None], groups, seed, resamples)


def hierarchical_interval(
    values: ArrayLike, groups: Sequence[str] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Mean of `values` (seeds, B) over seeds and utterances, with its interval.

    Each resample draws seeds, then speakers where known, else utterances. All seeds answer the same
    utterances, so one draw of speakers serves every drawn seed: fresh speakers per seed would average the
    luck of the test set away and make the interval too short. UsageError as in `bootstrap_interval`.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise UsageError(f"an interval needs finite values of shape (seeds, utterances), not {table.shape}")
    group_of, group_count = _group_indices(groups, table.shape[1])
    sums = np.stack([np.bincount(group_of, row, group_count) for row in table])
    sizes = np.bincount(group_of, minlength=group_count).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for groups_drawn in _draw_counts(rng, group_count, resamples):
        seeds_drawn = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), len(groups_drawn))
        totals = np.sum((groups_drawn @ sums.T) * seeds_drawn, axis=1)
        means.append(totals / (len(table) * (groups_drawn @ sizes)))
    return _percentiles(float(table.mean()), np.concatenate(means))


def accuracy_interval(
    is_right: ArrayLike, groups: Sequence[str] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Accuracy of `is_right` (B,) or (seeds, B) with its interval.

    `hierarchical_interval`, except where all answers are right or all are wrong: a bootstrap cannot see
    beyond its rows and would claim certainty, so the exact binomial bound over B utterances stands in.
    """
    right = np.atleast_2d(np.asarray(is_right, dtype=bool))
    interval = hierarchical_interval(right, groups, seed, resamples)
    if interval.estimate not in (0.0, 1.0):
        return interval
    bound = ((1 - CONFIDENCE) / 2) ** (1 / right.shape[1])
    return Interval(1.0, bound, 1.0) if interval.estimate else Interval(0.0, 0.0, 1 - bound)


def wilson_interval(right: int, count: int) -> Interval:
    """Accuracy of a handful of answers with its 95 % interval; a bootstrap of so few is too sure. Wilson 1927."""
    z, share = 1.959964, right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, min(share, centre - reach), max(share, centre + reach))


def paired_difference_interval(
    first: ArrayLike, second: ArrayLike, groups: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """Mean of first minus second on the same utterances, with its interval.

    Both are (B,) or (seeds, B); a single row is compared with every seed of the other.
    """
    one, two = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (first, second))
    if one.shape[1] != two.shape[1] or (len(one) != len(two) and 1 not in (len(one), len(two))):
        raise UsageError(f"answers of shape {one.shape} and {two.shape} are not about the same utterances")
    return hierarchical_interval(one - two, groups, seed)


def macro_f1_interval(
    true: ArrayLike,
    predicted: ArrayLike,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Macro F1 with its interval; a resample counts the labels of the utterances in it.

    A label that a resample loses with its speakers is not counted there because others are still taken for it:
    that would put all resamples below the estimate where each speaker has a label of its own.
    """
    from scipy.sparse import csr_array

    rows, columns, label_count = _indexed(true, predicted)
    group_of, group_count = _group_indices(groups, len(rows))

    def sums(labels: Integers, of: Integers) -> Any:
        """How often each group (G) has each label (C); sparse, for either may be thousands."""
        counts = csr_array((np.ones(len(of)), (of, labels)), shape=(group_count, label_count))
        return counts.tocsr()

    right = rows == columns
    hit, true_of, said_of = sums(rows[right], group_of[right]), sums(rows, group_of), sums(columns, group_of)
    unasked = np.bincount(rows, minlength=label_count) == 0
    estimates = []
    for drawn in _draw_counts(np.random.default_rng(seed), group_count, resamples):
        for some in np.array_split(drawn, 1 + len(drawn) * label_count // _CHUNK_DRAWS):
            hits, truths, answers = (some @ table for table in (hit, true_of, said_of))
            counted = (truths > 0) | (unasked & (answers > 0))
            scores = np.divide(2 * hits, truths + answers, out=np.zeros_like(hits), where=counted)
            estimates.append(scores.sum(1) / counted.sum(1))
    return _percentiles(_macro_f1_of(_confusion(rows, columns, label_count)), np.concatenate(estimates))


def mcnemar(first_is_right: ArrayLike, second_is_right: ArrayLike) -> McNemar:
    """Exact two-sided McNemar test of two classifiers on the same utterances (B,).

    The binomial sum is taken in whole numbers, so no count is too small or too large for it. It treats
    utterances as independent; where speakers are known, `paired_difference_interval` is the safer statement.
    """
    one, two = (np.asarray(side).astype(bool) for side in _paired(first_is_right, second_is_right))
    only_first, only_second = int(np.sum(one & ~two)), int(np.sum(two & ~one))
    discordant, ways, tail = only_first + only_second, 1, 0
    for chosen in range(min(only_first, only_second) + 1):
        tail += ways
        ways = ways * (discordant - chosen) // (chosen + 1)
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**discordant))


def _paired(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    one, two = np.asarray(first), np.asarray(second)
    if one.ndim != 1 or one.shape != two.shape:
        raise UsageError(f"two flat lists of equal length are needed, not shapes {one.shape} and {two.shape}")
    if not len(one):
        raise UsageError("no utterances to score; is the split empty?")
    return one, two


def _indexed(true: ArrayLike, predicted: ArrayLike) -> tuple[Integers, Integers, int]:
    first, second = _paired(true, predicted)
    labels, indices = np.unique(np.concatenate([first, second]), return_inverse=True)
    return indices[: len(first)], indices[len(first) :], len(labels)


def _label_indices(values: NDArray[np.generic], labels: Sequence[str]) -> Integers:
    index = {label: position for position, label in enumerate(labels)}
    if len(index) != len(labels):
        raise UsageError("a label is listed twice")
    try:
        return np.array([index[label] for label in values.tolist()], dtype=np.int64)
    except KeyError as error:
        raise UsageError(f"label {error.args[0]!r} is not one of the {len(labels)} listed") from None


def _confusion(rows: Integers, columns: Integers, label_count: int) -> Integers:
    flat = np.bincount(rows * label_count + columns, minlength=label_count**2)
    return flat.reshape(label_count, label_count)


def _macro_f1_of(counts: NDArray[np.number]) -> float:
    return _mean_f1(np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1))


def _mean_f1(hits: NDArray[np.number], relevant: NDArray[np.number]) -> float:
    """Mean F1 over the labels that occur: right answers, and truths plus answers, of each label (C,)."""
    occurring = relevant > 0
    return float(np.mean(2 * hits[occurring] / relevant[occurring]))


def _group_indices(groups: Sequence[str] | None, utterance_count: int) -> tuple[Integers, int]:
    if groups is None:
        return np.arange(utterance_count), utterance_count
    if len(groups) != utterance_count:
        raise UsageError(f"{len(groups)} groups for {utterance_count} utterances")
    names, indices = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise UsageError(f"one speaker ('{names[0]}') gives no interval over speakers; leave the groups out")
    return indices, len(names)


def _draw_counts(rng: np.random.Generator, group_count: int, resamples: int) -> Iterator[Floats]:
    """How often each group is drawn (R, groups), in chunks that bound the memory."""
    chunk = max(1, _CHUNK_DRAWS // group_count)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(group_count, size=(rows, group_count))
        drawn += np.arange(rows)[:, None] * group_count
        counts = np.bincount(drawn.ravel(), minlength=rows * group_count)
        yield counts.reshape(rows, group_count).astype(np.float64)


def _percentiles(estimate: float, resampled: Floats) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))
