"""The training that unit LMs of every kind share: batches of like length, a resumable loop, bits on held-out rows.

One utterance is one row; rows of like length share a batch, so that hardly a column is padding. Knows no
architecture: what a row is and what it costs is an `LmKind`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from speechprompt.errors import TrainingError
from speechprompt.pretraining.batches import Batches, bucketed
from speechprompt.pretraining.optimisation import Schedule, half_precision, optimise
from speechprompt.pretraining.run_folder import Progress, RunFolder
from speechprompt.pretraining.unit_lm_options import UnitLmOptions
from speechprompt.speech.units import Units

ModelT = TypeVar("ModelT", bound=PreTrainedModel)
RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True)
class Costs:
    """What a batch costs: the `loss` to descend, and the `nats` summed over `counts` targets under each name."""

    loss: Tensor
    nats: Mapping[str, Tensor]
    counts: Mapping[str, int]


class LmKind(Protocol[ModelT, RowT]):
    """A kind of unit LM over `unit_count` units: its rows, a new model, and what rows cost it."""

    @property
    def unit_count(self) -> int:
        """How many units the LM reads."""
        ...

    def rows(self, utterances: Sequence[Units]) -> list[RowT]:
        """Utterances as rows of bounded length, empty ones left out. UnitsError for what it cannot read."""
        ...

    def width(self, row: RowT) -> int:
        """How many columns a row takes."""
        ...

    def digest(self, rows: Sequence[RowT]) -> str:
        """Hash of the rows."""
        ...

    def new(self, rows: Sequence[RowT]) -> ModelT:
        """An untrained model for these rows; the same seed gives the same weights."""
        ...

    def costs(self, model: ModelT, rows: Sequence[RowT]) -> Costs:
        """What a batch of rows costs the model, on the model's device."""
        ...


@dataclass(frozen=True, slots=True)
class Pretrained(Generic[ModelT]):
    """A trained LM and its mean costs on held-out rows in bits, ends of utterances counted as units."""

    model: ModelT
    bits: Mapping[str, float]

    @property
    def bits_per_unit(self) -> float:
        """Bits of each unit."""
        return self.bits["bits_per_unit"]


def pretrain(
    kind: LmKind[ModelT, RowT],
    train: Sequence[Units],
    valid: Sequence[Units],
    folder: str | Path,
    options: UnitLmOptions,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Pretrained[ModelT]:
    """Train from `folder`'s state, or from scratch, to the end of the schedule.

    Errors: TrainingError without training or held-out units, when `folder` holds another run, or on a loss
    that is not a number; UnitsError as the kind's rows. Side effects: `folder` gets options.json, log.jsonl and
    state.pt.
    """
    train_rows, valid_rows = kind.rows(train), kind.rows(valid)
    if not train_rows or not valid_rows:
        raise TrainingError("an LM needs utterances to train on and others to hold out; one of them is empty")
    described = {**asdict(options), "unit_count": kind.unit_count, "material": kind.digest(train_rows)}
    run = RunFolder(folder, described, progress)
    model = kind.new(train_rows)
    torch.nn.Module.to(model, device)  # transformers' own `to` defies type checkers
    batches = Batches([kind.width(row) for row in train_rows], options.batch_units, options.seed)
    evaluate = _evaluation(kind, model, valid_rows, options)
    schedule = Schedule(
        options.steps,
        options.learning_rate,
        options.warmup_steps,
        options.weight_decay,
        save_every=options.save_every,
    )
    optimise(
        model,
        lambda step: kind.costs(model, [train_rows[i] for i in batches.at(step)]).loss,
        evaluate,
        schedule,
        run,
        options.seed,
        options.bf16,
    )
    model.train(False)
    return Pretrained(model, bits(kind, model, valid_rows, options.batch_units))


def _evaluation(
    kind: LmKind[ModelT, RowT], model: ModelT, rows: Sequence[RowT], options: UnitLmOptions
) -> Callable[[], dict[str, float]]:
    return lambda: bits(kind, model, rows, options.batch_units, options.bf16)


@torch.no_grad()
def bits(
    kind: LmKind[ModelT, RowT],
    model: ModelT,
    rows: Sequence[RowT],
    batch_units: int = 8192,
    bf16: bool = False,
) -> dict[str, float]:
    """Mean cost of every target of the rows in bits, by name."""
    model.train(False)
    nats, counts = dict[str, float](), dict[str, int]()
    for batch in bucketed([kind.width(row) for row in rows], range(len(rows)), batch_units):
        with half_precision(model.device, bf16):
            found = kind.costs(model, [rows[i] for i in batch])
        for name, value in found.nats.items():
            nats[name] = nats.get(name, 0.0) + float(value)
            counts[name] = counts.get(name, 0) + found.counts[name]
    return {name: nats[name] / max(1, counts[name]) / math.log(2) for name in nats}


def pieces(length: int, most: int) -> list[slice]:
    """Where an utterance of `length` units is cut so that no piece has more than `most`.

    >>> pieces(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + most, length)) for start in range(0, length, most)]
