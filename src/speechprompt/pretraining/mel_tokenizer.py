"""From speech without labels to a tokenizer: frames, MFCC clusters, masked prediction, k-means on a layer.

A second pass may predict clusters of what the first one learned (HuBERT's second iteration). Synthetic clips that
tell their phonemes guide both; the second pass also learns the phonemes that the first is sure to hear elsewhere.
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
from speechprompt.pretraining.masked_prediction import (
    MaskedPredictionOptions,
    MaskedPredictor,
    Targets,
    pretrain_encoder,
)
from speechprompt.pretraining.phonemes import UNKNOWN, frame_phonemes, inventory, phoneme_times
from speechprompt.pretraining.run_folder import Progress
from speechprompt.pretraining.sound_books import fit_sound_codes
from speechprompt.speech.manifest import Utterance
from speechprompt.tokenizers.mel_encoder import MelEncoder, frame_mask, unit_features
from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer

_BATCH_FRAMES = 6400
_CLUSTER_CLIPS, _UNIT_CLIPS = 4000, 2500  # how many clips, drawn at random, k-means hears
_SURE = 0.7  # how probable a phoneme must be for the second pass to learn it


@dataclass(frozen=True, slots=True)
class MelTokenizerOptions:
    """`clusters` of MFCC to predict; `second_steps` of a further pass over `second_clusters` of the first one's states;
    `phonemes`: learn those that clips tell, symbols that occur `phoneme_count` times or more; `kept_layers` of the
    encoder that stay; `unit_count` centres on the last; `timbre` and `prosody` codes beside them."""

    prediction: MaskedPredictionOptions = field(default_factory=MaskedPredictionOptions)
    clusters: int = 100
    second_steps: int = 0
    second_learning_rate: float = 1e-3
    second_clusters: int = 500
    phonemes: bool = False
    phoneme_count: int = 250
    kept_layers: int = 3
    unit_count: int = 500
    timbre: int = 0
    prosody: int = 0
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

    Errors: UsageError when more layers are kept than trained, or when there is one code book of sound without the
    other; TrainingError as the stages raise it. Side
    effects: `folder` gets frames/, clusters.npz, encoder/, second.npz, second/ and centres.npy.
    """
    if not 1 <= options.kept_layers <= options.prediction.encoder.layers:
        raise UsageError(
            f"{options.kept_layers} of {options.prediction.encoder.layers} layers cannot be kept"
        )
    if bool(options.timbre) != bool(options.prosody):
        raise UsageError("codes of timbre and of prosody come together; give both a number, or neither")
    folder = Path(folder)
    speech = collect_frames(utterances, folder / "frames", options.prediction.encoder.mels, progress)
    heard = [utterances[i] for i in speech.kept.tolist()]
    targets = _first_targets(speech, heard, folder / "clusters.npz", options)
    model = pretrain_encoder(
        speech, targets, folder / "encoder", options.prediction, device=device, progress=progress
    ).cpu()
    if options.second_steps:
        targets = _second_targets(model, speech, targets, folder / "second.npz", options)
        again = replace(
            options.prediction, steps=options.second_steps, learning_rate=options.second_learning_rate
        )
        start = model.encoder
        model = pretrain_encoder(
            speech, targets, folder / "second", again, start=start, device=device, progress=progress
        ).cpu()
    encoder = truncated(model.encoder, options.kept_layers)
    centres = _unit_centres(encoder, speech, folder / "centres.npy", options)
    mels = options.prediction.encoder.mels
    sound = fit_sound_codes(heard, options.timbre, options.prosody, mels=mels) if options.timbre else None
    return MelHubertTokenizer(name, encoder, centres, sound)


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
    for rows, frames, real in _padded(speech, clips):
        states = unit_features(encoder(frames, real))
        yield from (state[:count].numpy() for state, (_, count) in zip(states, rows, strict=True))


def _padded(
    speech: SpeechFrames, clips: Sequence[int]
) -> Iterator[tuple[list[tuple[int, int]], torch.Tensor, torch.Tensor]]:
    """(clip, frame count) of each row, frames (B,T,2*mels) and which are real (B,T), in batches of like length."""
    lengths = np.diff(speech.offsets)[list(clips)].tolist()
    for rows in bucketed(lengths, range(len(clips)), _BATCH_FRAMES):
        counts = torch.tensor([lengths[row] for row in rows])
        frames = torch.zeros(len(rows), int(counts.max()), speech.values.shape[1])
        for i, row in enumerate(rows):
            frames[i, : lengths[row]] = torch.from_numpy(speech.clip(clips[row]).astype(np.float32))
        yield [(clips[row], lengths[row]) for row in rows], frames, frame_mask(counts, frames.shape[1])


def _first_targets(
    speech: SpeechFrames, heard: Sequence[Utterance], path: Path, options: MelTokenizerOptions
) -> Targets:
    """Clusters of MFCC, and the phonemes that clips tell of themselves."""
    speakers = [u.speaker or u.id for u in heard]
    clusters = _mfcc_clusters(speech, speakers, path, options)
    times = [phoneme_times(u) for u in heard] if options.phonemes else []
    ids = inventory(times, options.phoneme_count)
    if not ids:
        return Targets(clusters, options.clusters)
    lengths = np.diff(speech.offsets).tolist()
    phonemes = [frame_phonemes(row, count, ids) for row, count in zip(times, lengths, strict=True)]
    return Targets(clusters, options.clusters, phonemes, len(ids) + 1)


@torch.no_grad()
def _second_targets(
    model: MaskedPredictor, speech: SpeechFrames, first: Targets, path: Path, options: MelTokenizerOptions
) -> Targets:
    """Clusters of the first pass's last layer; phonemes that it hears clearly in clips that do not tell theirs."""
    if not path.exists():
        drawn = _drawn(len(speech), _UNIT_CLIPS, options.seed + 2)
        states = hidden_frames(model.encoder, speech, drawn)
        centres = fit_centres(states, options.second_clusters, 150_000, options.seed)
        clusters = np.zeros(len(speech.values), np.int16)
        phonemes = np.full(len(speech.values), UNKNOWN, np.int16)
        for rows, frames, real in _padded(speech, range(len(speech))):
            states_of_batch = model.encoder(frames, real)
            named = model.phoneme_head(states_of_batch).softmax(-1).max(-1) if model.phoneme_head else None
            features = unit_features(states_of_batch).numpy()
            for i, (clip, count) in enumerate(rows):
                here = slice(speech.offsets[clip], speech.offsets[clip] + count)
                clusters[here] = nearest_centres(features[i, :count], centres)
                if named is not None:
                    sure = (named.values[i, :count] >= _SURE).numpy()
                    phonemes[here] = np.where(sure, named.indices[i, :count].numpy(), UNKNOWN)
        temporary = path.with_suffix(".part.npz")
        np.savez(temporary, clusters=clusters, phonemes=phonemes)
        temporary.replace(path)
    with np.load(path) as stored:
        clusters_of = np.split(stored["clusters"], speech.offsets[1:-1])
        heard_as = np.split(stored["phonemes"], speech.offsets[1:-1])
    if first.phonemes is None:
        return Targets(clusters_of, options.second_clusters)
    # a clip that tells its phonemes is believed, also where it says that it does not know
    pairs = zip(first.phonemes, heard_as, strict=True)
    phonemes_of = [told if (told != UNKNOWN).any() else guessed for told, guessed in pairs]
    return Targets(clusters_of, options.second_clusters, phonemes_of, first.phoneme_count)


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
