"""What is wrong with a corpus before anyone trains on it: rates, silence, duplicates, leakage, balance."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import AudioError, MissingExtra
from speechprompt.speech.audio import audio_hash, probe, read_waveform
from speechprompt.speech.manifest import Corpus, Utterance

Severity = Literal["error", "warning", "note"]

SILENCE_DECIBELS = -60.0  # RMS of a 20 ms frame, of full scale
SHORT_SECONDS = 0.1
LONG_SECONDS = 20.0
"""What `tiny` reads of any clip; of more, the number of units decides, which only the tokenizer knows."""
UNBALANCED_RATIO = 10.0  # most to least frequent label of train

_FRAME_SECONDS = 0.02
_FULL_SCALE = 0.999
_CLIPPED_RUN = 3  # samples in a row at full scale: one may be a peak, three are a flat top
_LISTED = 20  # utterance ids that a finding lists
_PAIRS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know: how bad, what kind, one line, how many utterances, and the first twenty of them."""

    severity: Severity
    kind: str
    text: str
    count: int
    utterances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Durations:
    """Of the clips that could be read, in seconds; `total_hours` in hours."""

    minimum_seconds: float
    median_seconds: float
    maximum_seconds: float
    total_hours: float


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What `examine` saw.

    `labels` maps slot to split to label to count; `sample_rates` (Hz) and `channels` count clips.
    `silence_share` is the share of silent 20 ms frames over all clips; it and `durations` are None where no
    audio was read.
    """

    corpus: str
    utterance_count: int
    splits: Mapping[str, int]
    speakers: Mapping[str, int]
    labels: Mapping[str, Mapping[str, Mapping[str, int]]]
    sample_rates: Mapping[int, int]
    channels: Mapping[int, int]
    durations: Durations | None
    silence_share: float | None
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists, for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Clip:
    """What one clip's audio says."""

    sample_rate: int
    channels: int
    duration_seconds: float
    silence_share: float
    clipped: bool
    content: str


def examine(
    corpus: Corpus, read_audio: bool = True, progress: Callable[[int, int], None] | None = None
) -> DoctorReport:
    """Look at every utterance of a corpus; nothing is changed and nothing raises.

    With `read_audio`, every clip is decoded at its own rate. Utterances without audio, or all of them without
    `read_audio`, are compared by their units. `progress(done, total)` is called after each utterance.
    """
    clips: dict[str, _Clip] = {}
    unreadable: dict[str, str] = {}
    for done, utterance in enumerate(corpus.utterances, start=1):
        if read_audio and utterance.audio is not None:
            try:
                clips[utterance.id] = _listen(utterance, utterance.audio)
            except (AudioError, MissingExtra) as error:
                unreadable[utterance.id] = str(error)
        if progress is not None:
            progress(done, len(corpus.utterances))
    findings = [
        *_unreadable_findings(unreadable),
        *_left_out_findings(corpus.left_out),
        *_clip_findings(clips),
        *_duplicate_findings(corpus, clips),
        *_speaker_findings(corpus),
        *_label_findings(corpus),
    ]
    severities = ("error", "warning", "note")
    return DoctorReport(
        corpus.name,
        len(corpus.utterances),
        corpus.splits(),
        {split: len(who) for split, who in _speakers(corpus).items()},
        _label_counts(corpus),
        dict(sorted(Counter(clip.sample_rate for clip in clips.values()).items())),
        dict(sorted(Counter(clip.channels for clip in clips.values()).items())),
        _durations([clip.duration_seconds for clip in clips.values()]),
        _silence_share(clips.values()),
        tuple(sorted(findings, key=lambda finding: severities.index(finding.severity))),
    )


def _listen(utterance: Utterance, audio: Path) -> _Clip:
    header = probe(audio)
    waveform, _ = read_waveform(audio, header.sample_rate, utterance.start_seconds, utterance.end_seconds)
    return _Clip(
        header.sample_rate,
        header.channels,
        len(waveform) / header.sample_rate,
        _silent_frames(waveform, header.sample_rate),
        _is_clipped(waveform),
        audio_hash(waveform, header.sample_rate),
    )


def _silent_frames(waveform: NDArray[np.float32], sample_rate: int) -> float:
    """The share of 20 ms frames whose RMS is below SILENCE_DECIBELS; a shorter clip is one frame."""
    size = min(len(waveform), max(1, round(_FRAME_SECONDS * sample_rate)))
    frames = waveform[: len(waveform) // size * size].reshape(-1, size)
    power = np.einsum("ts,ts->t", frames, frames) / size
    return float((power < 10 ** (SILENCE_DECIBELS / 10)).mean())


def _is_clipped(waveform: NDArray[np.float32]) -> bool:
    full = np.abs(waveform) >= _FULL_SCALE
    runs = len(full) - _CLIPPED_RUN + 1
    return runs > 0 and bool(np.logical_and.reduce([full[i : i + runs] for i in range(_CLIPPED_RUN)]).any())


def _finding(severity: Severity, kind: str, text: str, ids: Iterable[str]) -> list[Finding]:
    found = tuple(ids)
    return (
        [Finding(severity, kind, text.replace("{n}", str(len(found))), len(found), found[:_LISTED])]
        if found
        else []
    )


def _unreadable_findings(unreadable: Mapping[str, str]) -> list[Finding]:
    first = next(iter(unreadable.values()), "")
    return _finding("error", "unreadable", f"{{n}} clips cannot be read; first: {first}", unreadable)


def _left_out_findings(left_out: Mapping[str, str]) -> list[Finding]:
    first = next(iter(left_out.items()), ("", ""))
    return _finding(
        "error", "left_out", f"{{n}} files were left out: {first[1]}; first: {first[0]}", left_out
    )


def _clip_findings(clips: Mapping[str, _Clip]) -> list[Finding]:
    def those(fits: Callable[[_Clip], bool]) -> list[str]:
        return [name for name, clip in clips.items() if fits(clip)]

    short = f"shorter than {SHORT_SECONDS:g} s (those that hold no frame need --skip-unreadable)"
    long = f"longer than {LONG_SECONDS:g} s and may be too long for the LM (train names those that are); cut them"
    rates = {clip.sample_rate for clip in clips.values()}
    common = Counter(clip.sample_rate for clip in clips.values()).most_common(1)
    odd = those(lambda clip: clip.sample_rate != common[0][0]) if len(rates) > 1 else []
    mixed = f"{{n}} clips are not at {common[0][0]} Hz like most; rate may tell labels apart" if odd else ""
    return [
        *_finding(
            "warning", "silent", "{n} clips are silent throughout", those(lambda c: c.silence_share == 1)
        ),
        *_finding(
            "warning", "clipped", "{n} clips are clipped (flat at full scale)", those(lambda c: c.clipped)
        ),
        *_finding(
            "warning",
            "short",
            f"{{n}} clips are {short}",
            those(lambda c: c.duration_seconds < SHORT_SECONDS),
        ),
        *_finding(
            "note", "long", f"{{n}} clips are {long}", those(lambda c: c.duration_seconds > LONG_SECONDS)
        ),
        *_finding("warning", "sample_rate", mixed, odd),
    ]


def _content(utterance: Utterance, clips: Mapping[str, _Clip]) -> str | None:
    """What makes two utterances the same: the sound where it was read, else the units."""
    if utterance.id in clips:
        return clips[utterance.id].content
    if utterance.audio is not None and utterance.units is None:
        return None
    if (units := utterance.units) is None or not len(units):
        return None
    digest = hashlib.sha256(units.ids.tobytes())
    digest.update(b"" if units.durations is None else units.durations.tobytes())
    return digest.hexdigest()


def _duplicate_findings(corpus: Corpus, clips: Mapping[str, _Clip]) -> list[Finding]:
    same: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in corpus.utterances:
        if (content := _content(utterance, clips)) is not None:
            same[content].append(utterance)
    repeated = [group for group in same.values() if len(group) > 1]
    across = [group for group in repeated if len({u.split for u in group}) > 1]
    conflicting = [group for group in repeated if len({tuple(sorted(u.labels.items())) for u in group}) > 1]
    within = _repeats_within(repeated)
    what = "clips" if clips else "rows of units"
    leaked = [u.id for group in across for u in group]
    disputed = [u.id for group in conflicting for u in group]
    return [
        *_finding("error", "leakage", f"{{n}} {what} occur in more than one split", leaked),
        *_finding("warning", "conflict", f"{{n}} {what} are the same but labelled differently", disputed),
        *_finding("warning", "duplicate", f"{{n}} {what} repeat an earlier one of their split", within),
    ]


def _repeats_within(groups: Iterable[list[Utterance]]) -> list[str]:
    repeats = []
    for group in groups:
        seen: set[str] = set()
        for utterance in group:
            if utterance.split in seen:
                repeats.append(utterance.id)
            seen.add(utterance.split)
    return repeats


def _speakers(corpus: Corpus) -> dict[str, set[str]]:
    speakers: dict[str, set[str]] = {split: set() for split in corpus.splits()}
    for utterance in corpus.utterances:
        if utterance.speaker is not None:
            speakers[utterance.split].add(utterance.speaker)
    return speakers


def _speaker_findings(corpus: Corpus) -> list[Finding]:
    speakers = _speakers(corpus)
    if not any(speakers.values()):
        text = "speakers are not known, so the same voice may be in train and test"
        return [Finding("note", "speakers", text, 0)]
    splits_of = Counter(who for members in speakers.values() for who in members)
    shared = {who for who, count in splits_of.items() if count > 1}
    ids = [u.id for u in corpus.utterances if u.speaker in shared]
    text = f"{len(shared)} of {len(splits_of)} speakers are in more than one split ({{n}} utterances)"
    return _finding("warning", "speakers", text, ids)


def _label_counts(corpus: Corpus) -> dict[str, dict[str, dict[str, int]]]:
    counts = {
        slot: {split: dict.fromkeys(labels, 0) for split in corpus.splits()}
        for slot, labels in corpus.slots.items()
    }
    for utterance in corpus.utterances:
        for slot, label in utterance.labels.items():
            if slot in counts:
                counts[slot][utterance.split][label] += 1
    return counts


def _label_findings(corpus: Corpus) -> list[Finding]:
    findings = []
    if not corpus.slots:
        text = "no labels, so nothing can be learnt from it: a folder for each label, or --slots for a table"
        findings.append(Finding("error", "no_labels", text, len(corpus.utterances)))
    sizes = corpus.splits()
    if not any(name.startswith("fold") for name in sizes):
        for split in ("train", "valid"):
            if split not in sizes:
                text = f"no utterances in {split}, which train needs; splits that are drawn need three clips a label"
                findings.append(Finding("error", "missing_split", text, 0))
    for slot, splits in _label_counts(corpus).items():
        if len(labels := corpus.slots[slot]) < 2:
            text = f"{slot} has one label, '{', '.join(labels)}'; a classifier needs two"
            findings.append(Finding("error", "one_label", text, len(corpus.utterances)))
        findings += _spelling_findings(slot, splits)
        for split, counts in splits.items():
            if absent := [label for label, count in counts.items() if not count]:
                severity: Severity = "error" if split == "train" else "warning"
                names = ", ".join(absent[:8]) + (", …" if len(absent) > 8 else "")
                text = f"{len(absent)} labels of {slot} never occur in {split}: {names}"
                findings.append(Finding(severity, "missing_label", text, len(absent)))
        present = [count for count in splits.get("train", {}).values() if count]
        if present and max(present) > UNBALANCED_RATIO * min(present):
            text = f"labels of {slot} are uneven in train: from {min(present)} to {max(present)} utterances"
            findings.append(Finding("warning", "balance", text, sum(present)))
        bare = [u.id for u in corpus.utterances if slot not in u.labels]
        text = f"{{n}} utterances have no label for {slot}: train refuses them; add labels or leave them out"
        findings += _finding("error", "unlabelled", text, bare)
    return findings


def _spelling_findings(slot: str, counts: Mapping[str, Mapping[str, int]]) -> list[Finding]:
    """Labels of a slot that may be one label, spelt in two ways."""
    totals: Counter[str] = Counter()
    for of_split in counts.values():
        totals.update(of_split)
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in totals:
        spellings[_bare(label)].append(label)
    several = [sorted(group) for group in spellings.values() if len(group) > 1]
    if not several:
        return []
    named = ["'" + "' and '".join(group) + "'" for group in several]
    shown = ", ".join(named[:_PAIRS_SHOWN]) + (", …" if len(named) > _PAIRS_SHOWN else "")
    text = f"labels of {slot} differ only in case, blanks, '_' or '-': {shown}; give them one name if they are one"
    return [Finding("warning", "spelling", text, sum(totals[label] for group in several for label in group))]


def _bare(label: str) -> str:
    """A label without case, blanks, "_" and "-"; numbers stay what they are: 1_12 is not 11_2, and -1 is not 1."""
    apart = re.sub(r"(?<=\d)[\s_-]+(?=\d)", "\0", label.strip().casefold())
    return re.sub(r"(?!^-\d)[\s_-]+", "", apart)


def _durations(seconds: list[float]) -> Durations | None:
    if not seconds:
        return None
    return Durations(min(seconds), statistics.median(seconds), max(seconds), sum(seconds) / 3600)


def _silence_share(clips: Iterable[_Clip]) -> float | None:
    """Silent frames over all frames: clips weigh by their length."""
    pairs = [(clip.silence_share * clip.duration_seconds, clip.duration_seconds) for clip in clips]
    return sum(silent for silent, _ in pairs) / sum(length for _, length in pairs) if pairs else None
