"""A trained prompt on a split: its answers, its numbers with intervals, and the baselines on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speechprompt.encoding import check_lengths, encode_corpus, with_speed_copies
from speechprompt.errors import CorpusError, UnknownName, UsageError
from speechprompt.evaluation.baselines import (
    WHOLE,
    BaselineResult,
    Examples,
    LinearProbe,
    Majority,
    NgramBaseline,
    run_baseline,
    slot_labels,
)
from speechprompt.evaluation.reports import BaselineScore
from speechprompt.evaluation.summary import (
    AnsweredUtterance,
    SlotAnswer,
    TaskEvaluation,
    interval_groups,
    rightness,
    summarise,
)
from speechprompt.metrics import Interval, McNemar, mcnemar, paired_difference_interval
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.speeds import AnswerCopies
from speechprompt.speech.units import Units

if TYPE_CHECKING:
    from speechprompt.lms.protocol import UnitLM
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.spoken_lm import SpokenLM

BASELINES = ("majority", "n-gram", "probe")
PROBE_BATCH = 64

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One artifact on one split, whose utterances it heard at so many other speeds (`copies`) too.

    Of several artifacts together, as many as the one that heard most.
    """

    name: str
    split: str
    numbers: TaskEvaluation
    rows: tuple[AnsweredUtterance, ...]
    baselines: tuple[BaselineScore, ...] = ()
    free_accuracy: float | None = None
    copies: int = 0

    def to_json(self) -> dict[str, Any]:
        """Numbers and baselines; the answers themselves are left to `rows`."""
        return {
            "name": self.name,
            "split": self.split,
            **self.numbers.to_json(),
            "baselines": [asdict(score) for score in self.baselines],
            "free_decoding_accuracy": self.free_accuracy,
            "copies": self.copies,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two artifacts on the same rows: McNemar's test and the difference first minus second."""

    first: str
    second: str
    test: McNemar
    difference: Interval


def split_of(corpus: Corpus, split: str) -> tuple[Utterance, ...]:
    """A split's utterances. CorpusError when there are none, naming the splits that exist."""
    rows = corpus.split(split)
    if not rows:
        names = ", ".join(dict.fromkeys(u.split for u in corpus.utterances))
        raise CorpusError(f"{corpus.name} has no utterances in split '{split}'; it has {names}")
    return rows


def evaluate(
    spoken_lm: SpokenLM,
    artifact: Artifact,
    corpus: Corpus,
    split: str = "test",
    baselines: Sequence[str] = BASELINES,
    free: bool = False,
    seed: int = 0,
    copies: int | None = None,
) -> Evaluation:
    """Answers, numbers with 95 % intervals, and baselines trained on the corpus's train split.

    Beside prompts that validated in turn, majority and n-grams learn from valid, too, unless that is what is scored.
    The splits are the corpus's own: `as_trained` divides a source as a prompt of one fold or few shots had it.
    Decoding is constrained to each slot's labels; `free` adds the accuracy of the reference's free greedy
    decoding, in which an answer that is no label is wrong and every utterance is heard once. The prompt, not the
    baselines, hears every utterance at other speeds too (answer_copies.py): at so many as it was trained to answer
    over, or as `copies` says. CorpusError when the split is empty or has a label that the artifact does not know;
    UsageError when `free` and its outputs have no end or several prompts answer together, or for odd `copies`.
    """
    if free and artifact.others:
        raise UsageError(
            f"the {len(artifact.members)} prompts of '{artifact.name}' choose among labels together and cannot decode "
            "freely; leave --free out"
        )
    if free and not artifact.entry.verbalizer.can_end:
        raise UsageError(
            f"'{artifact.name}' has outputs for labels only, so it cannot decode freely; leave --free out, or train "
            "it with --recipe paper"
        )
    heard = artifact.copies(copies)
    corpus = with_answer_copies(encode_corpus(corpus, spoken_lm).corpus, spoken_lm, split, heard)
    test = split_of(corpus, split)
    learnt = (*corpus.split("train"), *corpus.split("valid")) if "probe" in baselines else ()
    check_lengths((*test, *learnt), spoken_lm.lm.max_units)
    rows = answers(spoken_lm.lm, artifact, test, heard)
    numbers = summarise(rows, artifact.entry.task.slots, seed)
    slots, turned = list(artifact.entry.task.slots), bool(artifact.config.options.get("rotate_validation"))
    results = run_baselines(spoken_lm, corpus, slots, split, baselines, seed, turned and split != "valid")
    scores = [BaselineScore.beside(result, rows, seed) for result in results]
    correct = _free_accuracy(spoken_lm.lm, artifact, test) if free else None
    return Evaluation(
        artifact.name, split, numbers, tuple(rows), tuple(scores), correct, heard_over(test, heard)
    )


def with_answer_copies(corpus: Corpus, spoken_lm: SpokenLM, split: str, *copies: int) -> Corpus:
    """The corpus with the units that a split's utterances have at the speeds of so many copies, of each number."""
    return with_speed_copies(corpus, spoken_lm, map(AnswerCopies, copies), splits=(split,)).corpus


def heard_over(utterances: Sequence[Utterance], copies: int) -> int:
    """How many copies of utterances there are where so many are asked for: those that come as units have none."""
    return copies if any(u.audio is not None for u in utterances) else 0


def answers(
    lm: UnitLM, artifact: Artifact, utterances: Sequence[Utterance], copies: int | None = None
) -> list[AnsweredUtterance]:
    """What the artifact answers to each utterance, calibrated, in order; over so many copies too, or its own number."""
    from speechprompt.prompting.answer_copies import artifact_scores

    task, calibration = artifact.entry.task, artifact.config.calibration
    scores = artifact_scores(lm, artifact, utterances, copies)
    columns = {}
    for slot, labels in task.slots.items():
        probabilities = calibration.apply(slot, scores[slot])
        best = [labels[i] for i in scores[slot].argmax(1).tolist()]
        columns[slot] = list(zip(best, probabilities.tolist(), strict=True))
    return [
        AnsweredUtterance(
            u.id, {slot: SlotAnswer(u.labels[slot], *columns[slot][i]) for slot in task.slots}, u.speaker
        )
        for i, u in enumerate(utterances)
    ]


def _free_accuracy(lm: UnitLM, artifact: Artifact, utterances: Sequence[Utterance]) -> float:
    """Share of utterances whose freely decoded string is exactly their labels' string."""
    import torch

    from speechprompt.lms.batch import collate
    from speechprompt.prompting.bank import Bank
    from speechprompt.prompting.classifier import decode_freely
    from speechprompt.prompting.run import Examples as UnitExamples

    entry = artifact.entry
    examples = UnitExamples.of(entry.task, utterances)
    bank = Bank([entry]).fold(lm)
    right = 0
    for indices in length_buckets([len(units) for units in examples.units], PROBE_BATCH, None):
        with torch.no_grad():
            decoded = decode_freely(lm, bank, collate([examples.units[i] for i in indices]).to(lm.device))
        for i, ids in zip(indices, decoded, strict=True):
            columns = [
                int(entry.verbalizer.columns(slot)[examples.targets[i, s]])
                for s, slot in enumerate(entry.task.slots)
            ]
            right += ids == columns
    return right / len(examples)


def run_baselines(
    spoken_lm: SpokenLM | None,
    corpus: Corpus,
    slots: Sequence[str],
    split: str = "test",
    names: Sequence[str] = BASELINES,
    seed: int = 0,
    valid_teaches: bool = False,
) -> list[BaselineResult]:
    """Baselines by name on an encoded corpus: trained on train, scored on `split`, all slots as one label.

    Only the probe asks the spoken LM. With `valid_teaches` the others, which choose nothing, learn from valid as well.
    """
    parts = {part: corpus.split(part) for part in ("train", "valid")} | {"test": split_of(corpus, split)}
    if not names or not parts["train"]:
        return []
    labels = {
        part: slot_labels([{slot: u.labels[slot] for slot in slots} for u in rows], WHOLE)
        for part, rows in parts.items()
    }
    speakers = [u.speaker for u in parts["test"]]
    for name in names:
        if name not in BASELINES:
            raise UnknownName("baseline", name, BASELINES)
    results = []
    for name in names:
        inputs = {part: _inputs(name, spoken_lm, rows) for part, rows in parts.items()}
        baseline: Any = {"majority": Majority, "n-gram": NgramBaseline, "probe": LinearProbe}[name]()
        examples = {
            part: Examples(inputs[part], labels[part], speakers if part == "test" else None) for part in parts
        }
        valid, train = examples["valid"] if parts["valid"] else None, examples["train"]
        if valid_teaches and name != "probe":
            train = Examples([*train.inputs, *inputs["valid"]], [*train.labels, *labels["valid"]])
        results.append(run_baseline(baseline, train, examples["test"], valid, seed))
    return results


def _inputs(name: str, spoken_lm: SpokenLM | None, utterances: Sequence[Utterance]) -> Any:
    units = [u.units for u in utterances if u.units is not None]
    if name == "probe":
        assert spoken_lm is not None, "a probe reads an LM's states"
        return mean_states(spoken_lm.lm, units)
    return [row.ids.tolist() for row in units]


def mean_states(lm: UnitLM, units: Sequence[Units]) -> NDArray[np.float32]:
    """Mean last hidden state (n,D) of the bare LM over each utterance's units."""
    import torch

    from speechprompt.lms.batch import collate

    states = np.zeros((len(units), lm.width), dtype=np.float32)
    for indices in length_buckets([len(row) for row in units], PROBE_BATCH, None):
        batch = collate([units[i] for i in indices]).to(lm.device)
        with torch.inference_mode():
            hidden = lm.unit_states(batch).float()
            valid = torch.arange(hidden.shape[1], device=hidden.device) < batch.lengths[:, None]
            total = (hidden * valid[..., None]).sum(1) / batch.lengths[:, None].clamp(min=1)
        states[indices] = total.cpu().numpy()
    return states


def compare(first: Evaluation, second: Evaluation, seed: int = 0) -> Comparison:
    """McNemar's test between two artifacts evaluated on the same rows, and their difference with its interval.

    The interval is over speakers where they are known, as each artifact's own. CorpusError when the rows differ.
    """
    if [row.id for row in first.rows] != [row.id for row in second.rows]:
        raise CorpusError(f"'{first.name}' and '{second.name}' were evaluated on different utterances")
    a, b = rightness(first.rows), rightness(second.rows)
    groups = interval_groups([row.speaker for row in first.rows])
    return Comparison(first.name, second.name, mcnemar(a, b), paired_difference_interval(a, b, groups, seed))
