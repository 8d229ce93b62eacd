"""A small convolutional network on units, tuned on validation: what full supervision gets out of the same units."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechprompt.experiments.demo import Update
from speechprompt.lms.batch import collate
from speechprompt.prompting.augmentation import augmented
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.units import Units

_EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class CnnOptions:
    """Training, with as many units masked as for prompts (`unit_masking`), and the values among which validation
    chooses (`widths`, `dropouts`, `unit_dropouts`).
    """

    steps: int = 2500
    evaluations: int = 20
    patience: int = 6
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    embedding: int = 64
    unit_masking: float = 0.1
    widths: tuple[int, ...] = (128,)
    dropouts: tuple[float, ...] = (0.2, 0.5)
    unit_dropouts: tuple[float, ...] = (0.0, 0.2)


@dataclass(frozen=True, slots=True)
class TrainedCnn:
    """The network that validates best, its accuracy there, and what was chosen."""

    model: UnitCnn
    valid_accuracy: float
    chosen: dict[str, float]


class UnitCnn(nn.Module):
    """Embedding, two convolutions of width 5, mean and maximum over the utterance, a linear layer a slot."""

    def __init__(
        self, unit_count: int, labels: Sequence[int], embedding: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.embed = nn.Embedding(unit_count + 1, embedding, padding_idx=unit_count)
        self.first = nn.Conv1d(embedding, width, 5, padding=2)
        self.second = nn.Conv1d(width, width, 5, padding=2)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(nn.Linear(2 * width, count) for count in labels)

    def forward(self, rows: Sequence[Units]) -> list[Tensor]:
        """Logits (B,C) of every slot."""
        batch = collate(rows).to(self.embed.weight.device)
        real = torch.arange(batch.unit_ids.shape[1], device=batch.lengths.device) < batch.lengths[:, None]
        x = self.embed(torch.where(real, batch.unit_ids, self.embed.num_embeddings - 1)).transpose(1, 2)
        mask = real[:, None]
        x = functional.relu(self.first(self.dropout(x))) * mask
        x = (
            functional.relu(self.second(self.dropout(x))) * mask
        )  # non-negative, so 0 is no maximum of its own
        pooled = torch.cat([x.sum(2) / batch.lengths[:, None], x.amax(2)], 1)
        return [head(self.dropout(pooled)) for head in self.heads]


def train_cnn(
    train: Examples,
    valid: Examples,
    labels: Sequence[int],
    options: CnnOptions,
    seed: int,
    update: Update,
    device: torch.device | str = "cpu",
) -> TrainedCnn:
    """Train one network for each combination of the values to choose from; the best on validation stays.

    Deterministic in `seed`; the global RNG is left as it was.
    """
    unit_count = 1 + max(int(row.ids.max()) for part in (train, valid) for row in part.units if len(row))
    best: TrainedCnn | None = None
    grid = list(product(options.widths, options.dropouts, options.unit_dropouts))
    with torch.random.fork_rng():
        for place, (width, dropout, unit_dropout) in enumerate(grid):
            torch.manual_seed(seed)
            model = UnitCnn(unit_count, labels, options.embedding, width, dropout).to(device)
            told = f"network {place + 1} of {len(grid)}"
            accuracy = _train(model, train, valid, options, unit_dropout, seed, update, told)
            if best is None or accuracy > best.valid_accuracy:
                chosen = {"width": float(width), "dropout": dropout, "unit_dropout": unit_dropout}
                best = TrainedCnn(model, accuracy, chosen)
    assert best is not None
    return best


def _train(
    model: UnitCnn,
    train: Examples,
    valid: Examples,
    options: CnnOptions,
    unit_dropout: float,
    seed: int,
    update: Update,
    told: str,
) -> float:
    """Train in place to the best state on validation; its accuracy."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.learning_rate, options.steps)
    worn = TrainingOptions(unit_masking=options.unit_masking, unit_dropout=unit_dropout, seed=seed)
    best, state, since = -1.0, copy.deepcopy(model.state_dict()), 0
    interval = max(1, options.steps // options.evaluations)
    batches: list[list[int]] = []
    lengths = [len(row) for row in train.units]
    for step in range(options.steps):
        if not batches:
            batches = length_buckets(lengths, options.batch_size, seed * 10_007 + step)
        indices = batches.pop()
        model.train()
        logits = model(augmented([train.units[i] for i in indices], worn, step))
        targets = train.targets[indices].to(logits[0].device)
        loss = torch.stack([functional.cross_entropy(x, targets[:, s]) for s, x in enumerate(logits)]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % interval and step + 1 < options.steps:
            continue
        answers = predict(model, valid.units)
        accuracy = float((answers == valid.targets).all(1).float().mean())
        update(step + 1, options.steps, told)
        if accuracy > best:
            best, state, since = accuracy, copy.deepcopy(model.state_dict()), 0
        else:
            since += 1
        if since >= options.patience:
            break
    model.load_state_dict(state)
    return best


@torch.no_grad()
def log_probabilities(model: UnitCnn, rows: Sequence[Units]) -> list[Tensor]:
    """Log-probabilities (n,C) of every slot, on the CPU."""
    model.train(False)
    unit_count = model.embed.num_embeddings - 1
    found = [torch.zeros(len(rows), count) for count in model.labels]
    for indices in length_buckets([len(row) for row in rows], _EVALUATION_BATCH, None):
        # a unit that training never showed is as good as padding
        known = [_clipped(rows[i], unit_count) for i in indices]
        for slot, logits in zip(found, model(known), strict=True):
            slot[indices] = logits.log_softmax(1).cpu()
    return found


def predict(model: UnitCnn, *hearings: Sequence[Units]) -> Tensor:
    """The best label of every slot, (n,S), by the mean over hearings of the same clips, in order."""
    told = [log_probabilities(model, rows) for rows in hearings]
    return torch.stack([torch.stack(slot).mean(0).argmax(1) for slot in zip(*told, strict=True)], 1)


def _clipped(row: Units, unit_count: int) -> Units:
    return row if int(row.ids.max()) < unit_count else Units(row.ids.clip(max=unit_count))
