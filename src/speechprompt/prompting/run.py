"""One prompt in training: its data, its own optimiser, schedule, random numbers and best state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprompt.errors import CorpusError, TrainingError, UsageError
from speechprompt.prompting.augmentation import augmented, check_augmentation
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.losses import Dropouts
from speechprompt.prompting.optimiser import PublishedAdam, clip
from speechprompt.prompting.readings import OURS
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import Verbalizer
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.hearings import hearings_of
from speechprompt.speech.manifest import Utterance
from speechprompt.speech.units import Units

FIRST_RATE = 5e-3
"""Learning rate until a range test has found another."""
LEAST_GAIN = 0.05
"""Share by which loss must fall to win patience once every validation answer is right."""
SKETCHED = 64
"""Stretches of each tensor that a run remembers of its start."""
STEADY_LOGITS, STEADY_STATE = 26, 96
"""Logits, and numbers of a normed state, that a verbalizer can sum at the prompt's learning rate."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Utterances as training sees them: `units` (n), `targets` (n,S) int64 and their ids.

    The last `speed_copies` rows are copies of others, played at other speeds. `answer_copies` holds units (n) of all
    rows at each other speed over which they are answered too.
    """

    units: Sequence[Units]
    targets: Tensor
    ids: Sequence[str] = ()
    speed_copies: int = 0
    answer_copies: Sequence[Sequence[Units]] = ()

    def __len__(self) -> int:
        return len(self.units)

    def hearings(self) -> list[Examples]:
        """The examples as they were recorded, and once for each answer copy with its units."""
        return [replace(self, units=units, answer_copies=()) for units in (self.units, *self.answer_copies)]

    @classmethod
    def of(cls, task: Task, utterances: Sequence[Utterance], copies: int = 0) -> Examples:
        """From utterances that carry units, to be answered over so many copies too.

        CorpusError when one has no units, or copies of audio were not encoded (`hearings_of`); UsageError for an odd
        number of copies.
        """
        bare = [u.id for u in utterances if u.units is None or not len(u.units)]
        if bare:
            raise CorpusError(
                f"{len(bare)} utterances carry no units (first: '{bare[0]}'); encode the corpus first"
            )
        targets = torch.tensor(task.targets(utterances), dtype=torch.int64).reshape(-1, len(task.slots))
        plain, *others = (
            [u.units for u in heard if u.units is not None] for heard in hearings_of(utterances, copies)
        )
        return cls(plain, targets, [u.id for u in utterances], answer_copies=others)

    @classmethod
    def to_train(cls, task: Task, utterances: Sequence[Utterance], options: TrainingOptions) -> Examples:
        """Each utterance and, as rows of their own, its copies at the speeds that the options ask for.

        CorpusError as `of`, and when copies of audio were not encoded (`encoding.with_speed_copies`).
        """
        plain = cls.of(task, utterances)
        copies = [(i, speed) for i, u in enumerate(utterances) for speed in _speeds(u, options)]
        if not copies:
            return plain
        return cls(
            [*plain.units, *(utterances[i].speed_copies[speed] for i, speed in copies)],
            torch.cat([plain.targets, plain.targets[[i for i, _ in copies]]]),
            [*plain.ids, *(f"{plain.ids[i]} at {speed:.3f}" for i, speed in copies)],
            len(copies),
        )


def _speeds(utterance: Utterance, options: TrainingOptions) -> tuple[float, ...]:
    """The speeds of the copies that an utterance trains with. CorpusError when one of them was not encoded."""
    if utterance.audio is None:
        return ()
    speeds = options.copying.speeds(utterance.id)
    if not utterance.speed_copies.keys() >= set(speeds):
        raise CorpusError(f"'{utterance.id}' was not encoded at other speeds; call with_speed_copies first")
    return speeds


@dataclass(slots=True)
class Progress:
    """Where a run stands; plain numbers, saved with its checkpoint."""

    step: int = 0
    epoch: int = 0
    place: int = 0
    evaluations: int = 0
    without_gain: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    best_step: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NgramFit:
    """What n-grams beside a prompt came to on validation, and the two apart, each over what it reads.

    `strength` is the classifier's C, `share` what its scores count for, `prompt_alone` the accuracy without them.
    `refitted` has weights that learnt from validation as well: nothing can be measured there with it.
    """

    strength: float
    share: float
    prompt_alone: float
    prompt: Verbalizer
    ngrams: Verbalizer
    refitted: Verbalizer | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """All but the classifiers."""
        return {"strength": self.strength, "share": self.share, "prompt_alone": self.prompt_alone}


class Run:
    """A task prompt with everything that training it needs and nothing shared with its neighbours."""

    def __init__(
        self, name: str, entry: TaskPrompt, options: TrainingOptions, train: Examples, valid: Examples
    ) -> None:
        if not len(train):
            raise TrainingError(f"'{name}' has no training utterances")
        if options.loss == "published" and options.decoding == "parallel" and len(entry.task.slots) > 1:
            raise UsageError(
                f"the published loss teaches one slot after another, and the {len(entry.task.slots)} slots of "
                f"'{entry.task.name}' would be read at once; take --decoding autoregressive with it"
            )
        check_augmentation(options, train.units)
        self.name, self.entry, self.options, self.train, self.valid = name, entry, options, train, valid
        self.progress = Progress()
        self.ngram_fit: NgramFit | None = None
        self.generator = torch.Generator().manual_seed(options.seed + 1)
        self.dropouts = Dropouts(options.prompt_dropout, options.verbalizer_dropout, self.generator)
        self.best = _copy(entry)
        self.start = _sketch(self.best)
        self.optimiser = self._optimiser()
        self._base_rates = [group["lr"] for group in self.optimiser.param_groups]
        self._batches = self._epoch_batches()

    @property
    def answering(self) -> TaskPrompt:
        """The entry as it answers what is asked later: with n-grams that were fitted again, where there are any."""
        if self.ngram_fit is None or self.ngram_fit.refitted is None:
            return self.entry
        return self.entry.reading(self.ngram_fit.refitted)

    @property
    def steps_per_epoch(self) -> int:
        """Updates that see every training utterance once."""
        return math.ceil(len(self.train) / self.options.batch_size)

    @property
    def evaluation_interval(self) -> int:
        """Updates between two validations."""
        if self.options.by_epoch:
            return self.steps_per_epoch
        return max(1, math.ceil(self.options.steps / self.options.evaluations))

    def _optimiser(self) -> torch.optim.Optimizer:
        options = self.options
        rate = FIRST_RATE if options.learning_rate == "find" else options.learning_rate
        if options.optimiser == "published":
            return PublishedAdam(self.entry.parameters(), rate, (0.9, 0.98), 1e-8)
        groups: list[dict[str, Any]] = [{"params": list(self.entry.prompt.parameters()), "lr": rate}]
        if verbalizer := list(self.entry.verbalizer.parameters()):
            groups.append({"params": verbalizer, "lr": self._verbalizer_rate(rate), "part": "verbalizer"})
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=options.weight_decay)

    def _verbalizer_rate(self, rate: float) -> float:
        """The learnable verbalizer's rate: its own, or the prompt's, smaller the more numbers it reads.

        It sums them, so at one rate its outputs would move in proportion: at 2e-2, 104 logits learn and 504 diverge.
        """
        if self.options.verbalizer_learning_rate is not None:
            return self.options.verbalizer_learning_rate
        verbalizer = self.entry.verbalizer
        steady = STEADY_STATE if set(verbalizer.streams) <= set(OURS) else STEADY_LOGITS
        return rate * min(1.0, steady / next(verbalizer.parameters()).shape[1])

    def _epoch_batches(self) -> list[list[int]]:
        """The batches of the current epoch; a function of seed and epoch alone."""
        seed = np.random.SeedSequence([self.options.seed, self.progress.epoch])
        indices = np.arange(len(self.train))
        if self.options.balanced:
            weights = self._balancing_weights()
            indices = np.random.default_rng(seed).choice(indices, len(indices), p=weights)
        lengths = [len(self.train.units[int(i)]) for i in indices]
        batches = length_buckets(lengths, self.options.batch_size, int(seed.generate_state(1)[0]))
        return [[int(indices[i]) for i in batch] for batch in batches]

    def _balancing_weights(self) -> np.ndarray:
        _, inverse, counts = np.unique(
            self.train.targets.numpy(), axis=0, return_inverse=True, return_counts=True
        )
        weights = 1.0 / counts[inverse.reshape(-1)]
        return np.asarray(weights / weights.sum())

    def next_batch(self) -> list[int]:
        """Indices of the next training batch; moves on to the next epoch when one is spent."""
        if self.progress.place >= len(self._batches):
            self.progress.epoch += 1
            self.progress.place = 0
            self._batches = self._epoch_batches()
        batch = self._batches[self.progress.place]
        self.progress.place += 1
        return batch

    def training_units(self, indices: Sequence[int]) -> Sequence[Units]:
        """The units of training utterances as the update that is due hears them (`augmentation`)."""
        return augmented([self.train.units[i] for i in indices], self.options, self.progress.step)

    def rate(self, step: int) -> float:
        """Factor on the learning rate at an update (counted from 0)."""
        options = self.options
        warm = int(options.warmup * options.steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        if options.schedule == "constant":
            return 1.0
        done = (step - warm) / max(1, options.steps - warm)
        return 1.0 - done if options.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    def update(self) -> float:
        """Clip, step and clear the gradients; the gradient's norm. TrainingError when it is not finite."""
        parameters = list(self.entry.parameters())
        norm = float(clip(parameters, self.options.clip_norm))
        if not math.isfinite(norm):
            raise TrainingError(
                f"'{self.name}' diverged at step {self.progress.step}: the gradient is not finite; "
                "lower --learning-rate"
            )
        for group, base in zip(self.optimiser.param_groups, self._base_rates, strict=True):
            group["lr"] = base * self.rate(self.progress.step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.progress.step += 1
        return norm

    def set_learning_rate(self, rate: float) -> None:
        """Replace the prompt's learning rate, and the verbalizer's unless it has one of its own; no other group's."""
        self._base_rates[0] = rate
        for i, group in enumerate(self.optimiser.param_groups):
            if group.get("part") == "verbalizer":
                self._base_rates[i] = self._verbalizer_rate(rate)

    def judge(self, accuracy: float, loss: float) -> bool:
        """Note a validation; keep the state if it is the best so far, and say so. Sets `finished`.

        Where every answer is right already, a loss that falls by less than `LEAST_GAIN` is kept but wins no patience.
        """
        progress, options = self.progress, self.options
        key = (accuracy, -loss) if options.select_by == "accuracy" else (-loss, accuracy)
        best = (
            (progress.best_accuracy, -progress.best_loss)
            if options.select_by == "accuracy"
            else (-progress.best_loss, progress.best_accuracy)
        )
        better = key > best
        perfect = options.select_by == "accuracy" and accuracy == progress.best_accuracy == 1
        gains = better and not (perfect and loss > (1 - LEAST_GAIN) * progress.best_loss)
        progress.without_gain = 0 if gains else progress.without_gain + 1
        if better:
            progress.best_accuracy, progress.best_loss, progress.best_step = accuracy, loss, progress.step
            self.best = _copy(self.entry)
        progress.evaluations += 1
        progress.finished = progress.without_gain >= options.patience or progress.step >= options.steps
        return better

    def state(self) -> dict[str, Any]:
        """All that resuming needs, as tensors and plain values."""
        progress = {name: getattr(self.progress, name) for name in Progress.__slots__}
        return {
            "progress": progress,
            "entry": _copy(self.entry),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "base_rates": self._base_rates,
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.progress = Progress(**state["progress"])
        self.entry.load_state_dict(state["entry"])
        self.best = state["best"]
        self.optimiser.load_state_dict(state["optimiser"])
        self._base_rates = list(state["base_rates"])
        self.generator.set_state(state["generator"])
        self._batches = self._epoch_batches()


def _copy(entry: TaskPrompt) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in entry.state_dict().items()}


def _sketch(state: Mapping[str, Tensor]) -> Tensor:
    """Sums over stretches of a state, float64: runs that started from other vectors are other runs."""
    parts = [part for name in sorted(state) for part in state[name].flatten().chunk(SKETCHED)]
    return torch.stack([part.double().sum() for part in parts] or [torch.zeros((), dtype=torch.float64)])
