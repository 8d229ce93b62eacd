"""HuBERT's lesson for the mel encoder: hide spans of frames, predict which cluster each hidden frame is in.

Clusters come from clean frames, the encoder hears worn ones (other vocal tracts, microphones, noise), so that
what survives is what was said. Knows frames and cluster ids; knows no audio file and no unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from speechprompt.errors import TrainingError
from speechprompt.pretraining.batches import Batches
from speechprompt.pretraining.frames import SpeechFrames, mean_and_deviation
from speechprompt.pretraining.optimisation import Schedule, optimise
from speechprompt.pretraining.run_folder import Progress, RunFolder
from speechprompt.tokenizers.mel_encoder import MelEncoder, MelEncoderConfig, frame_mask

_NATS_PER_DECIBEL = math.log(10) / 10


@dataclass(frozen=True, slots=True)
class MaskedPredictionOptions:
    """Encoder, schedule and what is hidden.

    `batch_frames`: frames an update hears, padding included; longer clips than `crop_frames` are cropped at
    random. A span of `span_frames` starts at a frame with probability `span_starts`. `visible_weight`: what
    naming the cluster of a frame that is not hidden counts, beside 1 for a hidden one. `warp`: by how much the
    mel axis may stretch; `wear`: how many clips get noise.
    """

    encoder: MelEncoderConfig = field(default_factory=lambda: MelEncoderConfig(layers=4))
    steps: int = 1000
    batch_frames: int = 6400
    crop_frames: int = 150
    span_frames: int = 8
    span_starts: float = 0.08
    visible_weight: float = 0.5
    warp: float = 0.08
    wear: float = 0.5
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    save_every: int = 100
    bf16: bool = True
    seed: int = 0


class MaskedPredictor(nn.Module):
    """The encoder, what stands in for a hidden frame, and the head that guesses its cluster."""

    def __init__(self, config: MelEncoderConfig, clusters: int) -> None:
        super().__init__()
        self.encoder = MelEncoder(config)
        self.hidden_frame = nn.Parameter(torch.randn(config.width) * 0.1)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, clusters)

    def forward(self, frames: Tensor, real: Tensor, hidden: Tensor) -> Tensor:
        """Logits (B,T,clusters) of frames (B,T,2*mels); `real` and `hidden` are (B,T) bool."""
        x = self.encoder.project(self.encoder.normalise(frames))
        x = torch.where(hidden[..., None], self.hidden_frame.to(x.dtype), x)
        logits: Tensor = self.head(self.norm(self.encoder.states(x, real)[-1]))
        return logits


def pretrain_encoder(
    speech: SpeechFrames,
    clusters: Sequence[NDArray[np.integer]],
    cluster_count: int,
    folder: str | Path,
    options: MaskedPredictionOptions,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> MelEncoder:
    """Train an encoder, from `folder`'s state or from scratch, to predict the clusters (T,) of each clip.

    One clip in fifty is held out; the log's `accuracy` is that of its hidden frames.
    Errors: TrainingError when speech and clusters differ, `folder` holds another run, or the loss is not a
    number. Side effects: `folder` gets options.json, log.jsonl and state.pt.
    """
    lengths = np.diff(speech.offsets)
    if len(speech) < 2 or [len(ids) for ids in clusters] != lengths.tolist():
        raise TrainingError("masked prediction needs two clips or more, and one cluster id a frame")
    described = {**asdict(options), "clusters": cluster_count, "clips": len(speech)}
    run = RunFolder(folder, described, progress)
    model = _new_predictor(speech, cluster_count, options).to(device)
    held_out = list(range(0, len(speech), max(2, min(50, len(speech) // 2))))
    taught = sorted(set(range(len(speech))) - set(held_out))
    crops = [min(int(lengths[i]), options.crop_frames) for i in taught]
    batches = Batches(crops, options.batch_frames, options.seed)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((options.seed, step, 1))
        rows = [taught[i] for i in batches.at(step)]
        frames, real, targets = _batch(speech, clusters, rows, options.crop_frames, rng, device)
        hidden = _spans(real, options)
        logits = model(worn(frames, real, options.warp, options.wear), real, hidden)
        costs = functional.cross_entropy(logits[real].float(), targets[real], reduction="none")
        weights = torch.where(hidden[real], 1.0, options.visible_weight)
        return (costs * weights).sum() / weights.sum()

    def evaluate() -> dict[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            return {"accuracy": _accuracy(model, speech, clusters, held_out, options, device)}

    schedule = Schedule(
        options.steps,
        options.learning_rate,
        options.warmup_steps,
        options.weight_decay,
        save_every=options.save_every,
    )
    optimise(model, loss_at, evaluate, schedule, run, options.seed, options.bf16)
    model.train(False)
    return model.encoder


def _new_predictor(
    speech: SpeechFrames, cluster_count: int, options: MaskedPredictionOptions
) -> MaskedPredictor:
    """An untrained predictor that knows the mean and deviation of the speech."""
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = MaskedPredictor(options.encoder, cluster_count)
    mean, deviation = mean_and_deviation(speech)
    model.encoder.mean.copy_(torch.from_numpy(mean))
    model.encoder.deviation.copy_(torch.from_numpy(deviation))
    return model


def worn(frames: Tensor, real: Tensor, warp: float, wear: float) -> Tensor:
    """Log-mel frames (B,T,2*mels) as another throat, microphone and room would have given them.

    The mel axis stretches by a factor in 1 +- `warp`; the spectrum tilts and bends by up to 6 dB; noise joins
    a share `wear` of the clips at 5 to 35 dB. Draws from the global RNG.
    """
    rows, mels = len(frames), frames.shape[-1] // 2
    device = frames.device
    halves = frames.unflatten(-1, (2, mels))
    axis = torch.arange(mels, device=device) / (mels - 1)
    stretch = 1 + warp * (2 * torch.rand(rows, 1, device=device) - 1)
    place = (axis * stretch * (mels - 1)).clamp(0, mels - 1)
    low = place.floor().long().clamp_max(mels - 2)
    share = (place - low)[:, None, None]
    index = low[:, None, None].expand_as(halves)
    halves = torch.lerp(halves.gather(-1, index), halves.gather(-1, index + 1), share)
    bends = torch.cos(math.pi * torch.arange(1, 4, device=device)[:, None] * axis)
    tilt = 6 * _NATS_PER_DECIBEL * (2 * torch.rand(rows, 3, device=device) - 1) / math.sqrt(3) @ bends
    decibels = 5 + 30 * torch.rand(rows, 1, device=device)
    colour = 5 * _NATS_PER_DECIBEL * (2 * torch.rand(rows, 1, device=device) - 1) * (axis - 0.5)
    loud = (torch.rand(rows, 1, device=device) < wear) * torch.exp(colour - decibels * _NATS_PER_DECIBEL)
    noise = loud[:, None, None] * -torch.log(torch.rand_like(halves).clamp_min(1e-6))
    halves = torch.log(torch.exp(halves + tilt[:, None, None]) + noise)
    return halves.flatten(2) * real[..., None]


def _batch(
    speech: SpeechFrames,
    clusters: Sequence[NDArray[np.integer]],
    rows: Sequence[int],
    crop_frames: int,
    rng: np.random.Generator,
    device: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (B,T,2*mels), which are real (B,T), and cluster ids (B,T) of random crops of clips."""
    counts = [min(len(clusters[row]), crop_frames) for row in rows]
    frames = np.zeros((len(rows), max(counts), speech.values.shape[1]), np.float32)
    targets = np.zeros(frames.shape[:2], np.int64)
    for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
        start = int(rng.integers(len(clusters[row]) - count + 1))
        frames[i, :count] = speech.clip(row)[start : start + count]
        targets[i, :count] = clusters[row][start : start + count]
    real = frame_mask(torch.tensor(counts), frames.shape[1])
    tensors = torch.from_numpy(frames), real, torch.from_numpy(targets)
    return tensors[0].to(device), tensors[1].to(device), tensors[2].to(device)


def _spans(real: Tensor, options: MaskedPredictionOptions) -> Tensor:
    """Which real frames are hidden (B,T); at least one."""
    starts = torch.rand(real.shape, device=real.device) < options.span_starts
    starts[:, 0] |= torch.rand(len(real), device=real.device) < options.span_starts
    padded = functional.pad(starts.float(), (options.span_frames - 1, 0))[:, None]
    hidden = functional.max_pool1d(padded, options.span_frames, 1)[:, 0].bool() & real
    if not hidden.any():
        hidden[:, 0] = True
    return hidden


@torch.no_grad()
def _accuracy(
    model: MaskedPredictor,
    speech: SpeechFrames,
    clusters: Sequence[NDArray[np.integer]],
    rows: Sequence[int],
    options: MaskedPredictionOptions,
    device: str,
) -> float:
    """Share of hidden frames of held-out clips whose cluster the head names."""
    model.train(False)
    right = total = 0
    for start in range(0, len(rows), 32):
        part = rows[start : start + 32]
        frames, real, targets = _batch(
            speech, clusters, part, options.crop_frames, np.random.default_rng(0), device
        )
        hidden = _spans(real, options)
        with torch.autocast(real.device.type, torch.bfloat16, enabled=options.bf16):
            guesses = model(frames, real, hidden)[hidden].argmax(-1)
        right += int((guesses == targets[hidden]).sum())
        total += len(guesses)
    return right / total
