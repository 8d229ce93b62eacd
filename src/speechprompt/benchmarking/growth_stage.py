"""How cost grows: with an utterance's length, the batch, the tasks asked, the prompt's length and the corpus.

On two layers of the true width, since every further layer costs the same again. Theory is the operations by formula;
for a corpus, its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from speechprompt.benchmarking.bank_stages import prompts
from speechprompt.benchmarking.case import Curve, Finding
from speechprompt.benchmarking.clock import Clock, Form
from speechprompt.benchmarking.lm_stages import PROMPT_LENGTH
from speechprompt.benchmarking.material import (
    QUICK_SIZE,
    SMALL_SIZE,
    SPEECH_COMMANDS,
    TRUE_SIZE,
    Lengths,
    Settings,
    equal_utterances,
    fresh_entry,
    fresh_run,
    random_lm,
    sizes_of,
    utterances,
)
from speechprompt.benchmarking.products import operations_of, prediction_products, training_products
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.predictor import window_scores
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.training import train_step
from speechprompt.speech.buckets import length_buckets

UNITS = 40
LABELS = 12
Work = Callable[[], object]
_LENGTHS = Lengths("equal lengths", UNITS, 0.0, LABELS)


def growth_findings(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """A curve for each size that cost depends on."""
    sizes = QUICK_SIZE if settings.quick else replace(TRUE_SIZE, layers=2)
    growth = _Growth(random_lm(sizes, settings.device), clock, settings.quick)
    yield growth.of_length()
    yield growth.of_training_length()
    yield growth.of_batch()
    yield growth.of_tasks()
    yield growth.of_prompt()
    yield growth.of_corpus(random_lm(QUICK_SIZE if settings.quick else SMALL_SIZE, settings.device))


class _Growth:
    def __init__(self, lm: GslmUnitLM, clock: Clock, quick: bool) -> None:
        self.lm, self.clock, self.quick, self.sizes = lm, clock, quick, sizes_of(lm)
        self.name = f"{self.sizes.layers}x{self.sizes.width}"

    def _chosen(self, sizes: Sequence[int]) -> Sequence[int]:
        return [size // 4 for size in sizes[:3]] if self.quick else sizes

    def _curve(self, name: str, size: str, works: dict[int, Work], theory: Callable[[int], float]) -> Curve:
        seconds = self.clock.in_turns({str(value): Form(work, 1.0) for value, work in works.items()})
        measured = [seconds[str(value)] for value in works]
        return Curve(
            "growth", name, size, self.clock.measure, list(works), measured, [theory(x) for x in works]
        )

    def _prediction(self, units: int, rows: int, prompt_length: int = PROMPT_LENGTH) -> Work:
        batch = equal_utterances(units, rows, self.lm.unit_count)
        prompt = fresh_entry(self.lm, batch, LABELS, TrainingOptions(prompt_length=prompt_length)).fold(
            self.lm
        )
        return lambda: window_scores(self.lm, [(prompt, row) for row in batch])

    def _operations(self, units: int, rows: int, prompt_length: int = PROMPT_LENGTH) -> float:
        return operations_of(
            prediction_products(self.sizes, [units] * rows, prompt_length, LABELS, dense=True)
        )

    def of_length(self) -> Curve:
        """Prediction of eight utterances of more and more units."""
        works = {n: self._prediction(n, 8) for n in self._chosen((16, 32, 64, 128, 256, 512))}
        return self._curve(
            f"prediction of 8 utterances, {self.name}",
            "units of the utterance",
            works,
            lambda n: self._operations(n, 8),
        )

    def of_training_length(self) -> Curve:
        """A training step on eight utterances of more and more units."""
        options = TrainingOptions(batch_size=8, prompt_length=PROMPT_LENGTH)
        works: dict[int, Work] = {}
        for n in self._chosen((16, 32, 64, 128, 256)):
            run = fresh_run(self.lm, equal_utterances(n, 8, self.lm.unit_count), LABELS, options)
            works[n] = lambda run=run: train_step(self.lm, [run])  # type: ignore[misc]
        return self._curve(
            f"training step on 8 utterances, {self.name}",
            "units of the utterance",
            works,
            lambda n: operations_of(
                training_products(self.sizes, [n] * 8, PROMPT_LENGTH, LABELS, dense=True)
            ),
        )

    def of_batch(self) -> Curve:
        """Prediction of larger and larger batches."""
        works = {b: self._prediction(UNITS, b) for b in self._chosen((4, 8, 16, 32, 64, 128))}
        return self._curve(
            f"prediction of utterances of {UNITS} units, {self.name}",
            "utterances of a batch",
            works,
            lambda b: self._operations(UNITS, b),
        )

    def of_tasks(self) -> Curve:
        """More and more tasks asked about one clip."""
        counts = self._chosen((4, 8, 16, 32, 64, 128))
        bank, clip = (
            prompts(self.lm, max(counts), _LENGTHS),
            equal_utterances(UNITS, 1, self.lm.unit_count)[0],
        )
        works: dict[int, Work] = {
            k: lambda k=k: window_scores(self.lm, [(prompt, clip) for prompt in bank[:k]])  # type: ignore[misc]
            for k in counts
        }
        return self._curve(
            f"tasks on one clip of {UNITS} units, {self.name}",
            "tasks",
            works,
            lambda k: self._operations(UNITS, k),
        )

    def of_prompt(self) -> Curve:
        """Prediction under longer and longer prompts."""
        works = {p: self._prediction(UNITS, 16, p) for p in self._chosen((4, 8, 16, 32, 64, 128))}
        return self._curve(
            f"prediction of 16 utterances of {UNITS} units, {self.name}",
            "length of the prompt",
            works,
            lambda p: self._operations(UNITS, 16, p),
        )

    def of_corpus(self, lm: GslmUnitLM) -> Curve:
        """A whole corpus answered in buckets, from lengths to scores, small LM."""
        works: dict[int, Work] = {}
        for count in self._chosen((64, 128, 256, 512, 1024)):
            corpus = utterances(SPEECH_COMMANDS, count, lm.unit_count)
            prompt = fresh_entry(lm, corpus, LABELS, TrainingOptions(prompt_length=PROMPT_LENGTH)).fold(lm)

            def answer(corpus: list = corpus, prompt: object = prompt) -> None:  # type: ignore[type-arg]
                for rows in length_buckets([len(row) for row in corpus], 32):
                    window_scores(lm, [(prompt, corpus[i]) for i in rows])  # type: ignore[misc]

            works[count] = answer
        name = f"prediction of a corpus, {lm.layers}x{lm.width}, batch 32"
        return self._curve(name, "utterances of the corpus", works, float)
