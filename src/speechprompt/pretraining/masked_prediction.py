"""HuBERT's lesson for the mel encoder: hide spans of frames, predict which cluster each hidden frame is in.

Clusters come from clean frames, the encoder hears worn ones (other vocal tracts, microphones, noise), so that
what survives is what was said. Where the phoneme of a frame is known (synthetic speech tells it), a second head
names it. Knows frames, cluster ids and phoneme ids; knows no audio file and no unit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechprompt.errors import TrainingError
from speechprompt.pretraining.batches import Batches
from speechprompt.pretraining.crops import Crops, CropSource, Targets, crop_source
from speechprompt.pretraining.frames import SpeechFrames, mean_and_deviation
from speechprompt.pretraining.optimisation import Schedule, half_precision, optimise
from speechprompt.pretraining.run_folder import Progress, RunFolder
from speechprompt.tokenizers.mel_encoder import MelEncoder, MelEncoderConfig

_NATS_PER_DECIBEL = math.log(10) / 10
_PHONEME_SMOOTHING = 0.1
_NARROW = (0.66, 0.95)  # places on the mel axis: 3 and 7 kHz
_DARK = 1e-5  # the frames' own floor


@dataclass(frozen=True, slots=True)
class MaskedPredictionOptions:
    """Encoder, schedule and what is hidden.

    `batch_frames`: frames an update hears, padding included; longer clips than `crop_frames` are cropped at
    random. A span of `span_frames` starts at a frame with probability `span_starts`; a share `all_visible` of the
    clips has none. `visible_weight`: what naming the cluster of a frame that is not hidden counts, beside 1 for a
    hidden one. `phoneme_weight`: what the cost of known phonemes counts, beside 1 for that of clusters.
    `warp`: by how much the mel axis may stretch; `wear`: how many clips get noise; `narrow`: how many lose what lies
    above a frequency of 3 to 7 kHz.
    """

    encoder: MelEncoderConfig = field(default_factory=lambda: MelEncoderConfig(layers=4))
    steps: int = 1000
    batch_frames: int = 6400
    crop_frames: int = 150
    span_frames: int = 8
    span_starts: float = 0.08
    all_visible: float = 0.0
    visible_weight: float = 0.5
    phoneme_weight: float = 1.0
    warp: float = 0.08
    wear: float = 0.5
    narrow: float = 0.0
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    save_every: int = 100
    bf16: bool = True
    seed: int = 0


class MaskedPredictor(nn.Module):
    """The encoder, what stands in for a hidden frame, and the heads that guess its cluster and its phoneme."""

    def __init__(self, config: MelEncoderConfig, clusters: int, phonemes: int = 0) -> None:
        super().__init__()
        self.encoder = MelEncoder(config)
        self.hidden_frame = nn.Parameter(torch.randn(config.width) * 0.1)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, clusters)
        self.phoneme_head = (
            nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, phonemes)) if phonemes else None
        )

    def forward(self, frames: Tensor, real: Tensor, hidden: Tensor) -> Tensor:
        """Logits (B,T,clusters) of frames (B,T,2*mels); `real` and `hidden` are (B,T) bool."""
        return self.guesses(frames, real, hidden)[0]

    def guesses(self, frames: Tensor, real: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of clusters (B,T,clusters) and, if any are known, of phonemes (B,T,phonemes)."""
        x = self.encoder.project(self.encoder.normalise(frames))
        x = torch.where(hidden[..., None], self.hidden_frame.to(x.dtype), x)
        state = self.encoder.states(x, real)[-1]
        return self.head(self.norm(state)), self.phoneme_head(state) if self.phoneme_head else None


def pretrain_encoder(
    speech: SpeechFrames,
    targets: Targets,
    folder: str | Path,
    options: MaskedPredictionOptions,
    *,
    start: MaskedPredictor | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> MaskedPredictor:
    """Train an encoder and its heads, from `folder`'s state, from what `start` learned or from scratch.

    One clip in fifty is held out; the log's `accuracy` is that of its hidden frames, `phoneme_accuracy` that of its
    frames with a known phoneme when all is visible.
    Errors: TrainingError when speech and targets differ, `folder` holds another run, or the loss is not a
    number. Side effects: `folder` gets options.json, log.jsonl and state.pt.
    """
    lengths = np.diff(speech.offsets).tolist()
    rows = [part for part in (targets.clusters, targets.phonemes, targets.trust) if part is not None]
    if len(speech) < 2 or any([len(ids) for ids in part] != lengths for part in rows):
        raise TrainingError("masked prediction needs two clips or more, and one cluster id a frame")
    described = _described(speech, targets, rows, options, start is not None)
    run = RunFolder(folder, described, progress)
    model = _new_predictor(speech, targets, options, start).to(device)
    held_out = list(range(0, len(speech), max(2, min(50, len(speech) // 2))))
    taught = sorted(set(range(len(speech))) - set(held_out))
    batches = Batches(
        [min(lengths[i], options.crop_frames) for i in taught], options.batch_frames, options.seed
    )

    source = crop_source(speech, targets, options.crop_frames, device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((options.seed, step, 1))
        return _loss(model, source.draw([taught[i] for i in batches.at(step)], rng), options)

    def evaluate() -> dict[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            return _accuracies(model, source, held_out, options)

    schedule = Schedule(
        options.steps,
        options.learning_rate,
        options.warmup_steps,
        options.weight_decay,
        save_every=options.save_every,
    )
    optimise(model, loss_at, evaluate, schedule, run, options.seed, options.bf16)
    model.train(False)
    return model


def _described(
    speech: SpeechFrames,
    targets: Targets,
    rows: Sequence[Sequence[np.ndarray]],
    options: MaskedPredictionOptions,
    starts_from_another: bool,
) -> dict[str, Any]:
    """What a run's folder is known by: options, frames and a hash of the targets' `rows`."""
    hashed = hashlib.sha256(b"".join(ids.tobytes() for part in rows for ids in part))
    return {
        **asdict(options),
        "clusters": targets.cluster_count,
        "clips": len(speech),
        "frames": speech.digest,
        "phonemes": targets.phoneme_count,
        "starts_from_another": starts_from_another,
        "targets": hashed.hexdigest(),
    }


def _new_predictor(
    speech: SpeechFrames, targets: Targets, options: MaskedPredictionOptions, start: MaskedPredictor | None
) -> MaskedPredictor:
    """A predictor that knows the mean and deviation of the speech, or all that `start` knows but its clusters."""
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = MaskedPredictor(options.encoder, targets.cluster_count, targets.phoneme_count)
    if start is not None:
        learned = {name: kept for name, kept in start.state_dict().items() if not name.startswith("head.")}
        model.load_state_dict({**model.state_dict(), **learned})
        return model
    mean, deviation = mean_and_deviation(speech)
    model.encoder.mean.copy_(torch.from_numpy(mean))
    model.encoder.deviation.copy_(torch.from_numpy(deviation))
    return model


def _loss(model: MaskedPredictor, crops: Crops, options: MaskedPredictionOptions) -> Tensor:
    """Cost of the clusters, hidden frames counted more, and of the phonemes that are known."""
    hidden = _spans(crops.real, options)
    heard = worn(crops.frames, crops.real, options.warp, options.wear, options.narrow)
    clusters, phonemes = model.guesses(heard, crops.real, hidden)
    # every frame has its cost, those that do not count weigh nothing: to pick the others would wait for a GPU
    weights = torch.where(hidden, 1.0, options.visible_weight) * crops.real
    loss = (_costs(clusters, crops.clusters) * weights).sum() / weights.sum()
    if phonemes is None:
        return loss
    trust = crops.trust * (crops.phonemes >= 0)
    named = _costs(phonemes, crops.phonemes.clamp_min(0), _PHONEME_SMOOTHING)
    return loss + options.phoneme_weight * (named * trust).sum() / trust.sum().clamp_min(1.0)


def _costs(logits: Tensor, ids: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy (B,T) in fp32 of logits (B,T,N)."""
    costs = functional.cross_entropy(
        logits.flatten(0, 1).float(), ids.flatten(), reduction="none", label_smoothing=smoothing
    )
    return costs.view_as(ids)


def worn(frames: Tensor, real: Tensor, warp: float, wear: float, narrow: float = 0.0) -> Tensor:
    """Log-mel frames (B,T,2*mels) as another throat, microphone and room would have given them.

    The mel axis stretches by a factor in 1 +- `warp`; the spectrum tilts and bends by up to 6 dB; noise joins
    a share `wear` of the clips at 5 to 35 dB; a share `narrow` ends between 3 and 7 kHz. Draws from the global RNG.
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
    power = torch.exp(halves + tilt[:, None, None]) + noise
    if narrow:
        last = _NARROW[0] + (_NARROW[1] - _NARROW[0]) * torch.rand(rows, 1, device=device)
        cut = (torch.rand(rows, 1, device=device) < narrow) & (axis > last)
        power = torch.where(cut[:, None, None], _DARK, power)
    halves = torch.log(power)
    return halves.flatten(2) * real[..., None]


def _spans(real: Tensor, options: MaskedPredictionOptions) -> Tensor:
    """Which real frames are hidden (B,T); at least one."""
    starts = torch.rand(real.shape, device=real.device) < options.span_starts
    starts[:, 0] |= torch.rand(len(real), device=real.device) < options.span_starts
    starts &= torch.rand(len(real), 1, device=real.device) >= options.all_visible
    padded = functional.pad(starts.float(), (options.span_frames - 1, 0))[:, None]
    hidden = functional.max_pool1d(padded, options.span_frames, 1)[:, 0].bool() & real
    hidden[:, 0] |= ~hidden.any()
    return hidden


@torch.no_grad()
def _accuracies(
    model: MaskedPredictor, source: CropSource, rows: Sequence[int], options: MaskedPredictionOptions
) -> dict[str, float]:
    """Shares of held-out frames that are named right: of the hidden ones, and of those with a known phoneme."""
    model.train(False)
    tallies, named = [], []
    all_hidden = replace(options, all_visible=0.0)
    for start in range(0, len(rows), 32):
        crops = source.draw(rows[start : start + 32], np.random.default_rng(0))
        hidden = _spans(crops.real, all_hidden)
        with half_precision(crops.real.device, options.bf16):
            clusters = model(crops.frames, crops.real, hidden)
            phonemes = model.guesses(crops.frames, crops.real, torch.zeros_like(hidden))[1]
        tallies.append(_tally(clusters, crops.clusters, hidden))
        if phonemes is not None:
            named.append(_tally(phonemes, crops.phonemes, crops.phonemes >= 0))
    measured = {}
    for name, parts in (("accuracy", tallies), ("phoneme_accuracy", named)):
        right, total = torch.stack(parts).sum(0).tolist() if parts else (0, 0)
        if total:
            measured[name] = right / total
    return measured


def _tally(logits: Tensor, ids: Tensor, among: Tensor) -> Tensor:
    """How many of the frames `among` (B,T) have their id as the likeliest, and how many they are: (2,)."""
    return torch.stack([((logits.argmax(-1) == ids) & among).sum(), among.sum()])
