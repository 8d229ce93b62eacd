"""The `tiny` tokenizer: log-mel frames, a small encoder taught by masked prediction, k-means.

The recipe is HuBERT's (Hsu et al. 2021) at a hundredth of its size, on mel frames instead of the waveform. Codes of
timbre and prosody may stand among the content units (`sound_codes`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechprompt.errors import AudioError, CheckpointError
from speechprompt.speech.units import Units, deduplicate
from speechprompt.tokenizers.mel_encoder import (
    FRAME_RATE,
    FRAME_SAMPLES,
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    MelEncoder,
    MelEncoderConfig,
    MelFrames,
    frame_count,
    frame_mask,
    smoothed,
    unit_features,
)
from speechprompt.tokenizers.protocol import Waveform
from speechprompt.tokenizers.sound_codes import SoundCodes, interleave, sound_features

KIND = "mel-hubert"
SCHEMA = 1
_SOUND = ("mean", "deviation", "timbre", "prosody")
CONTENT = "-content"
"""What follows the name of a tokenizer whose codes of timbre and prosody are left out."""
CHUNK_FRAMES = 1500  # 30 s; longer clips are heard in pieces
_BATCH_FRAMES = 2000  # padding included; what of a batch stays in the cache


class MelHubertTokenizer:
    """Waveform -> units at 50 Hz: the nearest centre to the encoder's last layer, runs merged.

    With `smoothing`, to the mean of a frame and its two neighbours there, which leaves fewer units.
    Weights are rounded to half precision, as they are stored, and computed in fp32. A clip over 30 s is cut
    into pieces of 30 s that do not hear each other; it has as many frames as if it had not been cut. With `sound`
    codes, the units after the content's stand for timbre and prosody, and each takes one frame's place.
    """

    sample_rate = SAMPLE_RATE
    frame_rate = FRAME_RATE

    def __init__(
        self,
        name: str,
        encoder: MelEncoder,
        centres: Tensor,
        sound: SoundCodes | None = None,
        smoothing: bool = False,
    ) -> None:
        """`centres` (content units, D) live in the space of `unit_features`."""
        self.name = name
        self._smoothing = smoothing
        self.unit_count = len(centres) + (sound.count if sound else 0)
        self._sound = sound and SoundCodes(*(getattr(sound, part).detach().float() for part in _SOUND))
        self._encoder = encoder.float().requires_grad_(False)
        self._encoder.train(False)
        for tensor in self._encoder.state_dict().values():
            tensor.copy_(tensor.half())
        self._centres = centres.detach().half().float()
        self._frames = MelFrames(encoder.config.mels)
        self.fingerprint = self._hash()

    def encode(self, waveform: Waveform) -> Units:
        """Units of samples (S,); AudioError when shorter than one frame (35 ms) or not a row of numbers."""
        return self.encode_batch([waveform])[0]

    def encode_batch(self, waveforms: Sequence[Waveform]) -> list[Units]:
        """Units of each clip, the same as of that clip alone."""
        pieces = [(i, piece) for i, waveform in enumerate(waveforms) for piece in _pieces(waveform, i)]
        ids: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(pieces)
        for rows in _batches([len(piece) for _, piece in pieces]):
            for row, frame_ids in zip(rows, self._frame_ids([pieces[row][1] for row in rows]), strict=True):
                ids[row] = frame_ids
        clips: list[list[NDArray[np.int64]]] = [[] for _ in waveforms]
        for (clip, _), frame_ids in zip(pieces, ids, strict=True):
            clips[clip].append(frame_ids)
        return [deduplicate(np.concatenate(parts)) for parts in clips]

    @torch.no_grad()
    def hidden_states(self, waveforms: Sequence[Waveform]) -> tuple[Tensor, Tensor]:
        """What k-means reads, (B,T,D), and the frame counts (B,), of clips of at most 30 s."""
        waves, lengths = self._padded(waveforms)
        frames, counts = self._frames(waves, lengths)
        return self._hidden(frames, counts), counts

    def _hidden(self, frames: Tensor, counts: Tensor) -> Tensor:
        states = unit_features(self._encoder(frames, frame_mask(counts, frames.shape[1])))
        return smoothed(states, counts) if self._smoothing else states

    def _padded(self, waveforms: Sequence[Waveform]) -> tuple[Tensor, Tensor]:
        """Clips side by side (B,S), zero after their ends, and their lengths (B,)."""
        device = self._centres.device
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        padded = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
        return padded.to(device), lengths.to(device)

    def features(self, waveforms: Sequence[Waveform]) -> list[Tensor]:
        """What k-means reads of each clip, (T,D); longer clips are heard in pieces, as `encode` does."""
        found = []
        for i, waveform in enumerate(waveforms):
            parts = [self.hidden_states([piece])[0][0] for piece in _pieces(waveform, i)]
            found.append(torch.cat(parts))
        return found

    def with_centres(self, name: str, centres: Tensor) -> MelHubertTokenizer:
        """The same encoder with other centres (K,D), under another name."""
        device = self._centres.device
        return MelHubertTokenizer(name, self._encoder, centres, smoothing=self._smoothing).to(device)

    def content(self) -> MelHubertTokenizer:
        """The content units alone, under the name `NAME-content`; the same tokenizer where it has no sound codes."""
        return self.with_centres(f"{self.name}{CONTENT}", self._centres) if self._sound else self

    def to(self, device: torch.device | str) -> MelHubertTokenizer:
        """The same tokenizer, moved in place to a device."""
        self._encoder.to(device)
        self._frames.to(device)
        self._centres = self._centres.to(device)
        if self._sound:
            self._sound = SoundCodes(*(getattr(self._sound, part).to(device) for part in _SOUND))
        return self

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and model.safetensors (half precision) into `folder`, creating it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._tensors(), folder / "model.safetensors")
        (folder / "tokenizer.json").write_text(json.dumps(self._config(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> MelHubertTokenizer:
        """Read what `save` wrote; CheckpointError when it is missing, damaged or something else."""
        folder = Path(folder)
        try:
            config = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{folder} holds no readable tokenizer ({_first_line(error)})") from error
        if not isinstance(config, dict) or config.get("kind") != KIND or config.get("schema") != SCHEMA:
            raise CheckpointError(
                f"{folder}/tokenizer.json does not describe a {KIND} tokenizer, schema {SCHEMA}"
            )
        try:
            encoder = MelEncoder(MelEncoderConfig(**config["encoder"]))
            centres = tensors.pop("centres")
            sound = None
            if config.get("sound"):
                sound = SoundCodes(*(tensors.pop(f"sound.{part}").float() for part in _SOUND))
            encoder.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
            smoothing = config.get("smoothing", False)
            if not isinstance(smoothing, bool):
                raise TypeError("smoothing is neither true nor false")
            return cls(config["name"], encoder, centres, sound, smoothing).to(device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: tokenizer.json and model.safetensors do not fit each other ({_first_line(error)})"
            ) from error

    @torch.no_grad()
    def _frame_ids(self, waveforms: Sequence[Waveform]) -> Iterator[NDArray[np.int64]]:
        waves, lengths = self._padded(waveforms)
        frames, counts = self._frames(waves, lengths)
        hidden = self._hidden(frames, counts)
        # argmin |h - c|^2 = argmin |c|^2 / 2 - h.c
        distances = self._centres.square().sum(1) / 2 - hidden @ self._centres.T
        nearest = distances.argmin(-1).cpu().numpy()
        content = [ids[:count] for ids, count in zip(nearest, counts.tolist(), strict=True)]
        if not self._sound:
            yield from content
            return
        first_code = len(self._centres)
        features = sound_features(waves, lengths, frames)
        for ids, row in zip(content, features, strict=True):
            timbre, prosody = self._sound.encode(row, len(ids))
            yield interleave(ids, (timbre + first_code, prosody + first_code), first_code)

    def _config(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "name": self.name,
            "sample_rate": SAMPLE_RATE,
            "frame_rate": FRAME_RATE,
            "unit_count": self.unit_count,
            "encoder": asdict(self._encoder.config),
            **({"smoothing": True} if self._smoothing else {}),
            **({"sound": {"timbre": len(self._sound.timbre)}} if self._sound else {}),
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {name: t.half().cpu().contiguous() for name, t in self._encoder.state_dict().items()}
        if self._sound:
            tensors |= {f"sound.{part}": getattr(self._sound, part).cpu().contiguous() for part in _SOUND}
        return {**tensors, "centres": self._centres.half().cpu()}

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps(self._config(), sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def _pieces(waveform: Waveform, index: int) -> Iterator[Waveform]:
    """A clip in pieces of `CHUNK_FRAMES` frames; AudioError when it is not one."""
    if waveform.ndim != 1 or not np.isfinite(waveform).all():
        raise AudioError(f"clip {index} is not one row of finite samples; decode it to mono first")
    frames = frame_count(len(waveform))
    if not frames:
        raise AudioError(
            f"clip {index} lasts {len(waveform) / 16:.0f} ms; a clip needs at least {WINDOW_SAMPLES / 16:.0f} ms"
        )
    overlap = WINDOW_SAMPLES - FRAME_SAMPLES
    for first in range(0, frames, CHUNK_FRAMES):
        last = min(first + CHUNK_FRAMES, frames)
        yield waveform[first * FRAME_SAMPLES : last * FRAME_SAMPLES + overlap]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers in batches of like length, at most `_BATCH_FRAMES` frames each with padding."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * frame_count(lengths[row]) > _BATCH_FRAMES:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
