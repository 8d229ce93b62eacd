"""Voice activity: Speech Commands v0.02 against Freesound backgrounds, segments of 0.63 s (row 16).

Layout: the manifests of NeMo's process_vad_data.py,
`balanced_{speech,background}_{training,validation,testing}_manifest.json`, in the folder, `manifest/` or
`vad_manifest/`; or only the audio, `speech_commands_v0.02/<word>/…` (or `google_speech_recognition_v2`) and
`freesound_resampled_background/…`, cut here with the same windows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import hashed_split, speech_commands_split
from speechprompt.corpora.tables import read_lines
from speechprompt.errors import CorpusError

SEGMENT_SECONDS = 0.63
SPEECH_START_SECONDS = 0.2
BACKGROUND_STRIDE_SECONDS = 0.63
LONGEST_SECONDS = 100.0
NEMO_SPLITS = {"train": "training", "valid": "validation", "test": "testing"}
MANIFEST_FOLDERS = ("", "manifest/", "vad_manifest/")
SPEECH_FOLDERS = ("speech_commands_v0.02", "google_speech_recognition_v2", "google_dataset_v2")
BACKGROUND_FOLDERS = ("freesound_resampled_background", "freesound_resampled", "freesound")

DESCRIPTION = CorpusDescription(
    name="speech-commands-freesound-vad",
    title="Speech Commands v0.02 and Freesound (VAD)",
    tasks={"voice_activity": ("voice_activity",)},
    languages=("en",),
    url="https://docs.nvidia.com/deeplearning/nemo/user-guide/docs/en/stable/asr/speech_classification/data"
    "sets.html",
    licence="CC BY 4.0 (Speech Commands); Freesound clips carry their own",
    citation="Warden 2018, arXiv:1804.03209; Font, Roma and Serra 2013, Freesound Technical Demo; Jia, "
    "Majumdar and "
    "Ginsburg 2021, MarbleNet, arXiv:2010.13886",
    by_hand="a Freesound API key; run NeMo's freesound_download and process_vad_data.py (fixed 60000, "
    "20000, 160000)",
    marks=(
        *(f"{folder}balanced_*_manifest.json" for folder in MANIFEST_FOLDERS),
        *SPEECH_FOLDERS,
        *BACKGROUND_FOLDERS[:2],
    ),
    parts=(*SPEECH_FOLDERS, *BACKGROUND_FOLDERS),
    split_rules={
        "paper": "the balanced manifests of NeMo's script, as they are",
        "seeded": "speech by the official speaker hash, one segment from 0.2 s; backgrounds 80/10/10 by a "
        "seeded hash of "
        "the file, segments without overlap; no rebalancing",
    },
    slots={"voice_activity": ("background", "speech")},
)


def rows(source: Source) -> Iterator[Row]:
    """NeMo's manifests in their order, or segments of the two folders."""
    if source.rule == "paper":
        found = {
            (kind, split): source.find(*(f"{folder}{_nemo_name(kind, split)}" for folder in MANIFEST_FOLDERS))
            for split in NEMO_SPLITS
            for kind in ("speech", "background")
        }
        present = {key: path for key, path in found.items() if path is not None}
        if present or source.rule_was_named:
            missing = [_nemo_name(*key) for key in found if key not in present]
            if missing:
                raise CorpusError(
                    f"{source.root} lacks {missing[0]}; run NeMo's process_vad_data.py to its end"
                )
            for (kind, split), path in present.items():
                yield from _nemo(source, path, kind, split)
            return
        source.fall_back("seeded", f"no {_nemo_name('speech', 'train')} here")
    yield from _segments(source)


def _nemo_name(kind: str, split: str) -> str:
    return f"balanced_{kind}_{NEMO_SPLITS[split]}_manifest.json"


def _nemo(source: Source, path: Path, kind: str, split: str) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path)):
        try:
            entry = json.loads(line)
            audio, start = _relative(source, entry["audio_filepath"]), float(entry["offset"])
            end = round(start + float(entry["duration"]), 4)
        except (ValueError, KeyError, TypeError):
            raise CorpusError(
                f"{path}: line {number + 1} is no NeMo entry; run process_vad_data.py again"
            ) from None
        if audio is not None:
            yield Row(
                audio, split, {"voice_activity": kind}, None, start, end, id=f"{split}/{kind}/{number:06d}"
            )


def _relative(source: Source, written: str) -> str | None:
    """A path of another machine, found here by its last parts."""
    parts = [part for part in written.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for first in range(len(parts)):
        candidate = "/".join(parts[first:])
        if source.path(candidate).is_file():
            return candidate
    source.skip(written, "is listed but not there")
    return None


def _segments(source: Source) -> Iterator[Row]:
    speech, background = (
        next((name for name in names if source.path(name).is_dir()), None)
        for names in (SPEECH_FOLDERS, BACKGROUND_FOLDERS)
    )
    if speech is None or background is None:
        missing = SPEECH_FOLDERS[0] if speech is None else BACKGROUND_FOLDERS[0]
        raise CorpusError(f"{source.root} has no folder {missing}; put speech and backgrounds side by side")
    for audio in source.files(speech):
        if "/_background_noise_/" not in audio:
            speaker = audio.rpartition("/")[2].partition("_nohash_")[0]
            for start in _starts(source, audio, SPEECH_START_SECONDS, most=1):
                yield _cut(audio, start, speech_commands_split(speaker), "speech", speaker)
    for audio in source.files(background):
        split = hashed_split(audio.rpartition("/")[2], source.seed_or(0))
        for start in _starts(source, audio, 0.0, most=None):
            yield _cut(audio, start, split, "background", None)


def _starts(source: Source, audio: str, first: float, most: int | None) -> Iterator[float]:
    """Where segments begin that end inside the file; long files are left out, as NeMo does."""
    header = source.header(audio)
    if header is None or header.seconds is None or header.seconds > LONGEST_SECONDS:
        return
    fitting = int((header.seconds - first - SEGMENT_SECONDS) / BACKGROUND_STRIDE_SECONDS + 1 + 1e-9)
    for place in range(fitting if most is None else min(fitting, most)):
        yield round(first + place * BACKGROUND_STRIDE_SECONDS, 4)


def _cut(audio: str, start: float, split: str, label: str, speaker: str | None) -> Row:
    return Row(audio, split, {"voice_activity": label}, speaker, start, round(start + SEGMENT_SECONDS, 4))
