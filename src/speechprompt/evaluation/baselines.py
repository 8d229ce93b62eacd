"""What a prompt has to beat: the majority label, unit n-grams, and a linear probe on hidden states.

All of them train on the utterances that the prompt trains on (`as_trained` draws its few shots again) and answer the
ones it answers. They know units, features and labels; they do not know corpora or language models.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechprompt.errors import CorpusError, UsageError
from speechprompt.evaluation.summary import interval_groups
from speechprompt.metrics import Interval, accuracy, accuracy_interval, macro_f1

WHOLE = "whole"
LABEL_JOINT = " · "
NGRAM_STRENGTH = 0.5
PROBE_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)

Input_contra = TypeVar("Input_contra", contravariant=True)
InputT = TypeVar("InputT")


@dataclass(frozen=True, slots=True)
class Examples(Generic[InputT]):
    """Inputs with their labels (B,), and speakers where known. CorpusError when they differ in length."""

    inputs: InputT
    labels: Sequence[str]
    speakers: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        count = len(self.inputs)  # type: ignore[arg-type]
        if count != len(self.labels):
            raise CorpusError(f"{count} inputs but {len(self.labels)} labels")


@dataclass(frozen=True, slots=True)
class Answers:
    """Predicted labels (B,), and scores (B, C) over `labels`; higher is better, not probabilities."""

    labels: tuple[str, ...]
    predictions: tuple[str, ...]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """What a baseline reached on the test utterances; `seconds` is training and answering on this machine."""

    name: str
    accuracy: float
    interval: Interval
    macro_f1: float
    predictions: tuple[str, ...]
    trained_parameters: int
    seconds: float


class Baseline(Protocol[Input_contra]):
    """A classifier that learns from examples; `valid` is for choosing options, never for fitting."""

    name: str
    trained_parameters: int

    def fit(
        self, inputs: Input_contra, labels: Sequence[str], valid: tuple[Input_contra, Sequence[str]] | None
    ) -> Self:
        """Learn from inputs and labels. CorpusError when they leave nothing to learn."""
        ...

    def predict(self, inputs: Input_contra) -> Answers:
        """Answer the inputs; call `fit` first."""
        ...


class Majority:
    """Always the most frequent training label; of equally frequent ones the first by name."""

    name = "majority"
    trained_parameters = 0

    def fit(self, inputs: object, labels: Sequence[str], valid: object = None) -> Self:
        """Count the labels; the inputs are not looked at. CorpusError when there are none."""
        if not len(labels):
            raise CorpusError("the train split is empty, so there is no majority label")
        counts = Counter(labels)
        self._labels = tuple(sorted(counts))
        self._scores = np.array([counts[label] for label in self._labels]) / len(labels)
        return self

    def predict(self, inputs: Sequence[object]) -> Answers:
        """Answer every input with the majority label; the scores are the training shares."""
        return _answers(self._labels, np.tile(self._scores, (len(inputs), 1)))


class NgramBaseline:
    """TF-IDF of 1- to 3-grams of units, then a linear SVM, with balanced labels unless told otherwise.

    Term counts are damped by a logarithm and n-grams of a single training utterance are dropped (kept where no label
    has two utterances, or nothing would remain). No option is chosen on valid, so it needs none.
    """

    name = "n-gram"

    def __init__(self, strength: float = NGRAM_STRENGTH, seed: int = 0, balanced: bool = True) -> None:
        self._strength, self._seed, self._balanced = strength, seed, balanced
        self.trained_parameters = 0

    def fit(self, inputs: Sequence[Sequence[int]], labels: Sequence[str], valid: object = None) -> Self:
        """Learn from unit sequences (N,) and their labels. CorpusError without units or two labels."""
        from sklearn.svm import LinearSVC

        _require_two_labels(labels)
        features = self._fit_features([_sentence(units) for units in inputs], 1 if all_single(labels) else 2)
        weight = "balanced" if self._balanced else None
        self._classifier = LinearSVC(C=self._strength, class_weight=weight, random_state=self._seed)
        self._classifier.fit(features, labels)
        self.trained_parameters = _parameter_count(self._classifier)
        return self

    def predict(self, inputs: Sequence[Sequence[int]]) -> Answers:
        """Answer unit sequences (N,); the scores are distances from the separating planes."""
        return _classified(self._classifier, self._terms.transform([_sentence(units) for units in inputs]))

    def _fit_features(self, sentences: list[str], fewest: int) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not any(sentences):
            raise CorpusError(
                "no training utterance has units; run 'speechprompt encode' on the corpus first"
            )
        for fewest_utterances in (fewest, 1):
            self._terms = TfidfVectorizer(
                token_pattern=r"\S+", ngram_range=(1, 3), sublinear_tf=True, min_df=fewest_utterances
            )
            try:
                return self._terms.fit_transform(sentences)
            except ValueError:
                continue
        raise CorpusError("the training utterances have no n-grams of units")


class LinearProbe:
    """Standardised features, then multinomial logistic regression; its strength is chosen on valid.

    Without valid the middle of `strengths` is taken. A feature that never varies is left at zero.
    """

    name = "probe"

    def __init__(self, strengths: Sequence[float] = PROBE_STRENGTHS) -> None:
        self._strengths = tuple(strengths)
        self.trained_parameters = 0
        self.strength: float | None = None

    def fit(
        self,
        inputs: ArrayLike,
        labels: Sequence[str],
        valid: tuple[ArrayLike, Sequence[str]] | None = None,
    ) -> Self:
        """Learn from features (B, D), e.g. mean hidden states. CorpusError without two labels."""
        from sklearn.preprocessing import StandardScaler

        _require_two_labels(labels)
        features = _features(inputs)
        if len(features) != len(labels):
            raise CorpusError(f"{len(features)} rows of features but {len(labels)} labels")
        self._scaler = StandardScaler().fit(features)
        scaled = self._scaler.transform(features)
        if valid is None or not len(valid[1]):
            self.strength = self._strengths[len(self._strengths) // 2]
            self._classifier: Any = self._fitted(self.strength, scaled, labels)
        else:
            self._choose(scaled, labels, self._scaler.transform(_features(valid[0])), valid[1])
        self.trained_parameters = _parameter_count(self._classifier)
        return self

    def predict(self, inputs: ArrayLike) -> Answers:
        """Answer features (B, D); the scores are logits."""
        return _classified(self._classifier, self._scaler.transform(_features(inputs)))

    def _choose(
        self, features: NDArray[Any], labels: Sequence[str], valid: NDArray[Any], valid_labels: Sequence[str]
    ) -> None:
        best = -1.0
        for strength in self._strengths:
            candidate = self._fitted(strength, features, labels)
            reached = accuracy(valid_labels, candidate.predict(valid))
            if reached > best:
                best, self.strength, self._classifier = reached, strength, candidate

    @staticmethod
    def _fitted(strength: float, features: NDArray[Any], labels: Sequence[str]) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=strength, max_iter=2000).fit(features, labels)


def run_baseline(
    baseline: Baseline[InputT],
    train: Examples[InputT],
    test: Examples[InputT],
    valid: Examples[InputT] | None = None,
    seed: int = 0,
) -> BaselineResult:
    """Train a baseline and score it on test; the interval is over speakers where they are known.

    CorpusError when a split is empty.
    """
    if not len(test.labels):
        raise CorpusError("the test split is empty, so there is nothing to score the baseline on")
    started = time.perf_counter()
    baseline.fit(train.inputs, train.labels, (valid.inputs, valid.labels) if valid else None)
    predictions = baseline.predict(test.inputs).predictions
    seconds = time.perf_counter() - started
    right = np.array([a == b for a, b in zip(test.labels, predictions, strict=True)])
    interval = accuracy_interval(right, interval_groups(test.speakers), seed)
    return BaselineResult(
        name=baseline.name,
        accuracy=interval.estimate,
        interval=interval,
        macro_f1=macro_f1(test.labels, predictions),
        predictions=predictions,
        trained_parameters=baseline.trained_parameters,
        seconds=seconds,
    )


def majority(
    train_labels: Sequence[str],
    test_labels: Sequence[str],
    speakers: Sequence[str | None] | None = None,
    seed: int = 0,
) -> BaselineResult:
    """The most frequent training label as the answer to every test utterance. CorpusError without rows.

    `speakers` (B,) are those of the test utterances, for the interval.
    """
    train, test = Examples(train_labels, train_labels), Examples(test_labels, test_labels, speakers)
    return run_baseline(Majority(), train, test, seed=seed)


def slot_labels(rows: Iterable[Mapping[str, str]], slot: str) -> list[str]:
    """The label of each row (slot -> label) for one slot, or for `whole` all slots joined as one label.

    CorpusError when a row lacks the slot, or when two different combinations would join to the same label.
    """
    labels = list(rows)
    if slot != WHOLE:
        missing = next((index for index, row in enumerate(labels) if slot not in row), None)
        if missing is not None:
            raise CorpusError(f"row {missing} has no label for slot '{slot}'")
        return [row[slot] for row in labels]
    slots = list(labels[0]) if labels else []
    combinations = [tuple(row.get(name, "") for name in slots) for row in labels]
    joined = [LABEL_JOINT.join(combination) for combination in combinations]
    if len(set(joined)) != len(set(combinations)):
        raise CorpusError(f"labels that hold '{LABEL_JOINT}' cannot be joined over slots; rename them")
    return joined


def all_single(labels: Sequence[str]) -> bool:
    """Whether no label has two utterances, so that an n-gram of two utterances is one of two labels."""
    return len(set(labels)) == len(labels)


def _require_two_labels(labels: Sequence[str]) -> None:
    found = len(set(labels))
    if found < 2:
        what = "one label" if found else "no utterances"
        raise CorpusError(f"the train split has {what}; a classifier needs at least two labels")


def _sentence(units: Sequence[int]) -> str:
    return " ".join(str(unit) for unit in units)


def _features(inputs: ArrayLike) -> NDArray[np.float64]:
    features = np.asarray(inputs, dtype=np.float64)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise UsageError(
            f"a linear probe needs finite features (utterances, width), not shape {features.shape}"
        )
    return features


def _parameter_count(classifier: Any) -> int:
    return int(classifier.coef_.size + classifier.intercept_.size)


def _classified(classifier: Any, features: Any) -> Answers:
    scores = np.asarray(classifier.decision_function(features), dtype=np.float64)
    if scores.ndim == 1:
        scores = np.stack([-scores, scores], axis=1)
    return _answers(tuple(str(label) for label in classifier.classes_), scores)


def _answers(labels: tuple[str, ...], scores: NDArray[np.float64]) -> Answers:
    return Answers(labels, tuple(labels[index] for index in scores.argmax(axis=1)), scores)
