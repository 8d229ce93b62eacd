"""From speech without labels to a tokenizer: frames, MFCC clusters, masked prediction, k-means on a layer.

Later passes may predict clusters of what the one before learned (HuBERT's second iteration). Synthetic clips that
tell their phonemes' times guide all; later passes also learn where the one before places the phonemes of clips that
tell their order, and those that it heard elsewhere, each frame counted by how sure it was.
Every stage leaves its result in the run's folder, with what it was made from, and is not done twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechprompt.errors import UsageError
from speechprompt.lms.decoder_units import weights_fingerprint
from speechprompt.pretraining.alignment import align
from speechprompt.pretraining.batches import bucketed
from speechprompt.pretraining.crops import Targets
from speechprompt.pretraining.frames import SpeechFrames, collect_frames, mfcc, without_speakers
from speechprompt.pretraining.kmeans import Features, fit_centres, nearest_centres
from speechprompt.pretraining.masked_prediction import (
    MaskedPredictionOptions,
    MaskedPredictor,
    pretrain_encoder,
)
from speechprompt.pretraining.phonemes import (
    SILENCE,
    UNKNOWN,
    frame_phonemes,
    inventory,
    order_ids,
    phoneme_order,
    phoneme_times,
)
from speechprompt.pretraining.run_folder import Progress
from speechprompt.pretraining.sound_books import fit_sound_codes
from speechprompt.pretraining.stages import stage
from speechprompt.speech.manifest import Utterance
from speechprompt.tokenizers.kmeans import KMeans
from speechprompt.tokenizers.mel_encoder import MelEncoder, frame_mask, smoothed, unit_features
from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer

_BATCH_FRAMES, _GPU_BATCH_FRAMES = 6400, 100_000
_CLUSTER_CLIPS, _UNIT_CLIPS = 4000, 2500  # how many clips, drawn at random, k-means hears
_HEARD = 0.25  # how probable a phoneme must be for the next pass to learn it
_TRUST = (
    0.84  # what it then counts, times its probability and at most _MOST, beside 1 for one that a clip tells
)
_MOST = 0.7
_PLACED = 0.5  # what a phoneme counts where its clip tells the order and the pass before the place

Orders = dict[int, list[int]]  # the phonemes of the clips that tell their order only, by the clip's place


@dataclass(frozen=True, slots=True)
class MelTokenizerOptions:
    """`clusters` of MFCC to predict; `later_passes` of `later_steps` each over `later_clusters` of the states of the
    pass before, at the layer that ends what is kept; `phonemes`: learn those that clips tell, symbols that occur
    `phoneme_count` times or more; `kept_layers` of the encoder that stay; `unit_count` centres on the last, with
    `smoothing` on means of three frames; `timbre` and `prosody` codes beside them."""

    prediction: MaskedPredictionOptions = field(default_factory=MaskedPredictionOptions)
    clusters: int = 100
    later_passes: int = 0
    later_steps: int = 1000
    later_learning_rate: float = 1e-3
    later_clusters: int = 500
    phonemes: bool = False
    phoneme_count: int = 250
    kept_layers: int = 3
    unit_count: int = 500
    smoothing: bool = False
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

    Errors: UsageError when more layers are kept than trained, when there is one code book of sound without the
    other, or when clips tell the order of phonemes and none tells times; CorpusError for phonemes that are none;
    TrainingError as the stages raise it. Side effects: `folder` gets frames/, clusters.npz, encoder/, pass2.npz,
    pass2/ and so on, and centres.npz.
    """
    _check(utterances, options)
    folder = Path(folder)
    speech = collect_frames(utterances, folder / "frames", options.prediction.encoder.mels, progress)
    heard = [utterances[i] for i in speech.kept.tolist()]
    targets, orders = _first_targets(speech, heard, folder / "clusters.npz", options)
    model = pretrain_encoder(
        speech, targets, folder / "encoder", options.prediction, device=device, progress=progress
    )
    again = replace(options.prediction, steps=options.later_steps, learning_rate=options.later_learning_rate)
    told = targets
    for number in range(2, options.later_passes + 2):
        targets = _later_targets(model, speech, told, orders, folder / f"pass{number}.npz", options)
        place = folder / f"pass{number}"
        model = pretrain_encoder(speech, targets, place, again, start=model, device=device, progress=progress)
    encoder = truncated(model.encoder, options.kept_layers)
    centres = _unit_centres(encoder, speech, folder / "centres.npz", options)
    mels = options.prediction.encoder.mels
    sound = fit_sound_codes(heard, options.timbre, options.prosody, mels=mels) if options.timbre else None
    return MelHubertTokenizer(name, encoder.cpu(), centres, sound, options.smoothing)


def _check(utterances: Sequence[Utterance], options: MelTokenizerOptions) -> None:
    """Errors of `pretrain_mel_tokenizer` that need no work to be seen, and CorpusError for phonemes that are none."""
    if not 1 <= options.kept_layers <= options.prediction.encoder.layers:
        raise UsageError(
            f"{options.kept_layers} of {options.prediction.encoder.layers} layers cannot be kept"
        )
    if bool(options.timbre) != bool(options.prosody):
        raise UsageError("codes of timbre and of prosody come together; give both a number, or neither")
    if not options.phonemes or inventory(map(phoneme_times, utterances), options.phoneme_count):
        return
    if any(phoneme_order(u) for u in utterances):
        raise UsageError(
            "rows tell the order of their phonemes and none tells when they begin, from which a first pass could "
            f"learn them; add such rows (a symbol counts from {options.phoneme_count} times on), or leave out phonemes"
        )


def truncated(encoder: MelEncoder, layers: int) -> MelEncoder:
    """A copy that ends after `layers` layers, on the same device."""
    kept = MelEncoder(replace(encoder.config, layers=layers)).to(encoder.mean.device)
    state = encoder.state_dict()
    kept.load_state_dict({name: state[name] for name in kept.state_dict()})
    return kept


@torch.no_grad()
def hidden_frames(
    encoder: MelEncoder, speech: SpeechFrames, clips: Sequence[int], smoothing: bool = False
) -> Iterator[NDArray[np.float32]]:
    """What k-means reads of each clip, (T,D), in batches of like length, not in the order of `clips`.

    Worked out where the encoder lies.
    """
    for rows, frames, real in _padded(speech, clips, encoder.mean.device):
        states = unit_features(encoder(frames, real))
        states = (smoothed(states, real.sum(1)) if smoothing else states).cpu()
        yield from (state[:count].numpy() for state, (_, count) in zip(states, rows, strict=True))


def _padded(
    speech: SpeechFrames, clips: Sequence[int], device: torch.device
) -> Iterator[tuple[list[tuple[int, int]], torch.Tensor, torch.Tensor]]:
    """(clip, frame count) of each row, frames (B,T,2*mels) and which are real (B,T), in batches of like length."""
    lengths = np.diff(speech.offsets)[list(clips)].tolist()
    budget = _BATCH_FRAMES if device.type == "cpu" else _GPU_BATCH_FRAMES
    for rows in bucketed(lengths, range(len(clips)), budget):
        counts = [lengths[row] for row in rows]
        frames = np.zeros((len(rows), max(counts), speech.values.shape[1]), np.float16)
        for i, row in enumerate(rows):
            frames[i, : lengths[row]] = speech.clip(clips[row])
        real = frame_mask(torch.tensor(counts, device=device), frames.shape[1])
        yield [(clips[row], lengths[row]) for row in rows], torch.from_numpy(frames).to(device).float(), real


def _first_targets(
    speech: SpeechFrames, heard: Sequence[Utterance], path: Path, options: MelTokenizerOptions
) -> tuple[Targets, Orders]:
    """Clusters of MFCC, the phonemes whose times clips tell, and the orders that others tell."""
    speakers = [u.speaker or u.id for u in heard]
    clusters = _mfcc_clusters(speech, speakers, path, options)
    times = [phoneme_times(u) for u in heard] if options.phonemes else []
    ids = inventory(times, options.phoneme_count)
    if not ids:
        return Targets(clusters, options.clusters), {}
    lengths = np.diff(speech.offsets).tolist()
    phonemes = [frame_phonemes(row, count, ids) for row, count in zip(times, lengths, strict=True)]
    told = ((i, order_ids(phoneme_order(u) or (), ids)) for i, u in enumerate(heard))
    orders = {i: order for i, order in told if order}
    return Targets(clusters, options.clusters, phonemes, len(ids) + 1), orders


def _later_targets(
    model: MaskedPredictor,
    speech: SpeechFrames,
    told: Targets,
    orders: Orders,
    path: Path,
    options: MelTokenizerOptions,
) -> Targets:
    """Clusters of the pass before, and the phonemes that it heard in clips that do not tell when (`told`)."""
    stored = stage(
        path,
        {
            "clusters": options.later_clusters,
            "kept_layers": options.kept_layers,
            "seed": options.seed,
            "model": _weights_of(model),
            "frames": speech.digest,
            "orders": sorted(orders.items()),
        },
        lambda: _heard(model, speech, options, orders),
    )
    clusters_of, heard_as, trusted = (
        np.split(stored[name], speech.offsets[1:-1]) for name in ("clusters", "phonemes", "trust")
    )
    if told.phonemes is None:
        return Targets(clusters_of, options.later_clusters)
    # a clip that tells its phonemes is believed, also where it says that it does not know
    tells = [bool((row != UNKNOWN).any()) for row in told.phonemes]
    pairs = zip(told.phonemes, heard_as, tells, strict=True)
    phonemes_of = [row if tell else guessed for row, guessed, tell in pairs]
    trust_of = [np.ones_like(row) if tell else row for row, tell in zip(trusted, tells, strict=True)]
    return Targets(clusters_of, options.later_clusters, phonemes_of, told.phoneme_count, trust_of)


@torch.no_grad()
def _heard(
    model: MaskedPredictor, speech: SpeechFrames, options: MelTokenizerOptions, orders: Orders
) -> dict[str, NDArray[Any]]:
    """Of every frame: its cluster at the last kept layer, its phoneme or UNKNOWN, and what that counts.

    The phoneme is the one that a clip's order places there, else the likeliest.
    """
    drawn = _drawn(len(speech), _UNIT_CLIPS, options.seed + 2)
    kept = truncated(model.encoder, options.kept_layers)
    centres = fit_centres(hidden_frames(kept, speech, drawn), options.later_clusters, 150_000, options.seed)
    clusters = np.zeros(len(speech.values), np.int16)
    phonemes = np.full(len(speech.values), UNKNOWN, np.int16)
    trust = np.ones(len(speech.values), np.float16)
    for rows, frames, real in _padded(speech, range(len(speech)), model.encoder.mean.device):
        layers = model.encoder.states(model.encoder.project(model.encoder.normalise(frames)), real)
        near = _nearest(unit_features(layers[options.kept_layers - 1]), [count for _, count in rows], centres)
        for (clip, count), ids in zip(rows, near, strict=True):
            clusters[speech.offsets[clip] : speech.offsets[clip] + count] = ids
        if model.phoneme_head is None:
            continue
        guesses = model.phoneme_head(layers[-1]).log_softmax(-1)
        for (clip, count), (ids, counted) in zip(rows, _named(guesses, rows, orders), strict=True):
            here = slice(speech.offsets[clip], speech.offsets[clip] + count)
            phonemes[here], trust[here] = ids, counted
    return {"clusters": clusters, "phonemes": phonemes, "trust": trust}


def _named(
    guesses: torch.Tensor, rows: Sequence[tuple[int, int]], orders: Orders
) -> list[tuple[NDArray[np.integer], NDArray[np.floating]]]:
    """The phoneme of each of a clip's frames and what it counts, from log-probabilities (B,T,P) of padded `rows`."""
    sure, best = (part.cpu().numpy() for part in guesses.exp().max(-1))
    named = []
    for i, (_, count) in enumerate(rows):
        heard = np.where(sure[i, :count] >= _HEARD, best[i, :count], UNKNOWN)
        named.append((heard, np.minimum(_MOST, _TRUST * sure[i, :count])))
    telling = [i for i, (clip, _) in enumerate(rows) if clip in orders]
    parts = [guesses[i, : rows[i][1]] for i in telling]
    paths, fits = align(parts, [orders[rows[i][0]] for i in telling], SILENCE)
    for i, path, fit in zip(telling, paths, fits, strict=True):
        if np.isfinite(fit):
            named[i] = (path, np.full(len(path), _PLACED, np.float16))
    return named


def _nearest(features: torch.Tensor, counts: Sequence[int], centres: Features) -> list[NDArray[np.integer]]:
    """The nearest centre of each of a clip's frames: features (B,T,D) on any device -> ids (T,) a clip."""
    if features.device.type == "cpu":
        pairs = zip(features.numpy(), counts, strict=True)
        return [nearest_centres(clip[:count], centres) for clip, count in pairs]
    ids = KMeans(torch.from_numpy(centres).to(features.device)).assign(features).cpu().numpy()
    return [row[:count] for row, count in zip(ids, counts, strict=True)]


def _mfcc_clusters(
    speech: SpeechFrames, speakers: Sequence[str], path: Path, options: MelTokenizerOptions
) -> list[NDArray[np.integer]]:
    """The MFCC cluster of every frame, a row (T,) a clip; what a speaker's voice adds is taken out first."""

    def clustered() -> dict[str, NDArray[Any]]:
        features = without_speakers([mfcc(speech, i) for i in range(len(speech))], speakers)
        drawn = _drawn(len(speech), _CLUSTER_CLIPS, options.seed)
        centres = fit_centres((features[i] for i in drawn), options.clusters, 200_000, options.seed)
        ids = [nearest_centres(clip, centres).astype(np.int16) for clip in features]
        return {"centres": centres, "ids": np.concatenate(ids)}

    made_from = {"clusters": options.clusters, "seed": options.seed, "speakers": list(speakers)}
    made_from["frames"] = speech.digest
    return np.split(stage(path, made_from, clustered)["ids"], speech.offsets[1:-1])


def _unit_centres(
    encoder: MelEncoder, speech: SpeechFrames, path: Path, options: MelTokenizerOptions
) -> torch.Tensor:
    def centres() -> dict[str, NDArray[Any]]:
        clips = _drawn(len(speech), _UNIT_CLIPS, options.seed + 1)
        frames = hidden_frames(encoder, speech, clips, options.smoothing)
        return {"centres": fit_centres(frames, options.unit_count, 150_000, options.seed)}

    made_from = {"unit_count": options.unit_count, "seed": options.seed, "model": _weights_of(encoder)}
    made_from |= {"smoothing": options.smoothing, "frames": speech.digest}
    return torch.from_numpy(stage(path, made_from, centres)["centres"])


def _weights_of(model: torch.nn.Module) -> str:
    return weights_fingerprint(model.state_dict().items(), ())


def _drawn(total: int, wanted: int, seed: int) -> list[int]:
    return np.sort(np.random.default_rng(seed).permutation(total)[:wanted]).tolist()
