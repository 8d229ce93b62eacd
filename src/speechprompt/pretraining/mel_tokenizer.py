"""From speech without labels to a tokenizer: frames, MFCC clusters, masked prediction, k-means on a layer.

Every stage leaves its result in the run's folder and is not done twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from speechprompt.errors import UsageError
from speechprompt.pretraining.batches import bucketed
from speechprompt.pretraining.frames import SpeechFrames, collect_frames, mfcc, without_speakers
from speechprompt.pretraining.kmeans import fit_centres, nearest_centres
from speechprompt.pretraining.masked_prediction import MaskedPredictionOptions, pretrain_encoder
from speechprompt.pretraining.run_folder import Progress
from speechprompt.speech.manifest import Utterance
from speechprompt.tokenizers.mel_encoder import MelEncoder, frame_mask, unit_features
from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer

_BATCH_FRAMES = 6400
_CLUSTER_CLIPS, _UNIT_CLIPS = 4000, 2500  # how many clips, drawn at random, k-means hears


@dataclass(frozen=True, slots=True)
class MelTokenizerOptions:
    """`clusters` of MFCC to predict; `kept_layers` of the encoder that stay; `unit_count` centres on the last."""

    prediction: MaskedPredictionOptions = field(default_factory=MaskedPredictionOptions)
    clusters: int = 100
    kept_layers: int = 3
    unit_count: int = 500
    seed: int = 0


def pretrain_mel_tokenizer(
    name: str,
    utterances: Sequence[Utterance],
    folder: str | Path,
    options: MelTokenizerOptions,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> MelHubertTokenizer:
    """Train a tokenizer on the audio of utterances, resuming from what `folder` already holds.

    Errors: UsageError when more layers are kept than trained; TrainingError as the stages raise it. Side
    effects: `folder` gets frames/, clusters.npz, encoder/ and centres.npy.
    """
    if not 1 <= options.kept_layers <= options.prediction.encoder.layers:
        raise UsageError(
            f"{options.kept_layers} of {options.prediction.encoder.layers} layers cannot be kept"
        )
    folder = Path(folder)
    speech = collect_frames(utterances, folder / "frames", options.prediction.encoder.mels, progress)
    speakers = [utterances[i].speaker or utterances[i].id for i in speech.kept.tolist()]
    clusters = _mfcc_clusters(speech, speakers, folder / "clusters.npz", options)
    encoder = pretrain_encoder(
        speech,
        clusters,
        options.clusters,
        folder / "encoder",
        options.prediction,
        device=device,
        progress=progress,
    )
    encoder = truncated(encoder.cpu(), options.kept_layers)
    return MelHubertTokenizer(name, encoder, _unit_centres(encoder, speech, folder / "centres.npy", options))


def truncated(encoder: MelEncoder, layers: int) -> MelEncoder:
    """A copy that ends after `layers` layers."""
    kept = MelEncoder(replace(encoder.config, layers=layers))
    state = encoder.state_dict()
    kept.load_state_dict({name: state[name] for name in kept.state_dict()})
    return kept


@torch.no_grad()
def hidden_frames(
    encoder: MelEncoder, speech: SpeechFrames, clips: Sequence[int]
) -> Iterator[NDArray[np.float32]]:
    """What k-means reads of each clip, (T,D), in batches of like length, not in the order of `clips`."""
    lengths = np.diff(speech.offsets)[list(clips)].tolist()
    for rows in bucketed(lengths, range(len(clips)), _BATCH_FRAMES):
        counts = torch.tensor([lengths[row] for row in rows])
        frames = torch.zeros(len(rows), int(counts.max()), speech.values.shape[1])
        for i, row in enumerate(rows):
            frames[i, : lengths[row]] = torch.from_numpy(speech.clip(clips[row]).astype(np.float32))
        states = unit_features(encoder(frames, frame_mask(counts, frames.shape[1])))
        yield from (state[:count].numpy() for state, count in zip(states, counts.tolist(), strict=True))


def _mfcc_clusters(
    speech: SpeechFrames, speakers: Sequence[str], path: Path, options: MelTokenizerOptions
) -> list[NDArray[np.integer]]:
    """The MFCC cluster of every frame, a row (T,) a clip; what a speaker's voice adds is taken out first."""
    if not path.exists():
        features = without_speakers([mfcc(speech, i) for i in range(len(speech))], speakers)
        drawn = _drawn(len(speech), _CLUSTER_CLIPS, options.seed)
        centres = fit_centres((features[i] for i in drawn), options.clusters, 200_000, options.seed)
        ids = [nearest_centres(clip, centres).astype(np.int16) for clip in features]
        temporary = path.with_suffix(".part.npz")
        np.savez(temporary, centres=centres, ids=np.concatenate(ids))
        temporary.replace(path)
    with np.load(path) as stored:
        return np.split(stored["ids"], speech.offsets[1:-1])


def _unit_centres(
    encoder: MelEncoder, speech: SpeechFrames, path: Path, options: MelTokenizerOptions
) -> torch.Tensor:
    if not path.exists():
        clips = _drawn(len(speech), _UNIT_CLIPS, options.seed + 1)
        centres = fit_centres(
            hidden_frames(encoder, speech, clips), options.unit_count, 150_000, options.seed
        )
        np.save(path, centres)
    return torch.from_numpy(np.load(path))


def _drawn(total: int, wanted: int, seed: int) -> list[int]:
    return np.sort(np.random.default_rng(seed).permutation(total)[:wanted]).tolist()
