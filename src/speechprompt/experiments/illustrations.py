"""A report's examples made visible and audible: clips embedded, units drawn with what each did for the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from speechprompt.errors import AudioError
from speechprompt.evaluation.clips import ClipPicture, peaks_of
from speechprompt.evaluation.reports import Example, embedded_clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from speechprompt.evaluation.occlusion import Occlusion
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.speech.manifest import Utterance
    from speechprompt.spoken_lm import SpokenLM

CLIP_RATE = 16_000
LONGEST_CLIP_SECONDS = 120.0
"""Of a longer clip the beginning is embedded."""
SPAN_COUNT = 40
"""Parts of an utterance that are left out one by one; each costs as much as scoring an utterance."""


def illustrated(
    examples: Sequence[Example], artifact: Artifact, spoken_lm: SpokenLM, utterances: Sequence[Utterance]
) -> tuple[Example, ...]:
    """Examples with their clips and pictures; one whose clip cannot be read has its units only.

    `utterances` are those that were scored, with units. Side effects: reads the examples' audio files.
    """
    from speechprompt.evaluation.occlusion import occlude_together

    by_id = {utterance.id: utterance for utterance in utterances}
    chosen = [by_id[example.id] for example in examples]
    units = [u.units for u in chosen if u.units is not None]
    occlusions = occlude_together(spoken_lm.lm, artifact.members, units, SPAN_COUNT)
    return tuple(
        _illustrated(example, utterance, occlusion, artifact, spoken_lm)
        for example, utterance, occlusion in zip(examples, chosen, occlusions, strict=True)
    )


def _illustrated(
    example: Example, utterance: Utterance, occlusion: Occlusion, artifact: Artifact, spoken_lm: SpokenLM
) -> Example:
    waveform = _waveform(utterance)
    picture = _picture(utterance, occlusion, artifact, spoken_lm if utterance.audio is not None else None)
    if waveform is None:
        return replace(example, picture=picture)
    seconds = len(waveform) / CLIP_RATE
    audio = embedded_clip(waveform[: int(LONGEST_CLIP_SECONDS * CLIP_RATE)], CLIP_RATE)
    excerpt = ""
    if seconds > LONGEST_CLIP_SECONDS:
        excerpt = f"the first {LONGEST_CLIP_SECONDS:g} s of {seconds:.0f} s can be heard"
    if picture.has_seconds:
        picture = replace(picture, peaks=peaks_of(waveform), length=round(seconds, 4))
    return replace(example, audio=audio, excerpt=excerpt, picture=picture)


def _waveform(utterance: Utterance) -> NDArray[np.float32] | None:
    """The utterance's samples, or None where there are none to read."""
    from speechprompt.speech.audio import read_waveform

    if utterance.audio is None:
        return None
    try:
        return read_waveform(utterance.audio, CLIP_RATE, utterance.start_seconds, utterance.end_seconds)[0]
    except AudioError:
        return None


def _picture(
    utterance: Utterance, occlusion: Occlusion, artifact: Artifact, timed_by: SpokenLM | None
) -> ClipPicture:
    """The utterance's units and what each span did for its answer.

    Several slots: the first wrong one's answer, else the first one's. `timed_by` has the tokenizer whose frames
    the durations count.
    """
    units = utterance.units
    assert units is not None
    slots = artifact.entry.task.slots
    answers = {slot: labels[int(occlusion.scores[slot].argmax())] for slot, labels in slots.items()}
    slot = next((s for s, label in answers.items() if label != utterance.labels[s]), next(iter(slots)))
    importance = occlusion.importance(slot, calibration=artifact.config.calibration)
    has_seconds = timed_by is not None and units.durations is not None
    frames = np.ones(len(units), np.int64) if units.durations is None else units.durations
    rate = timed_by.tokenizer.frame_rate if timed_by is not None and has_seconds else 1.0
    edges = np.concatenate([[0], np.cumsum(frames)]) / rate
    return ClipPicture(
        units=tuple(str(unit) for unit in units.ids.tolist()),
        edges=tuple(round(float(edge), 4) for edge in edges),
        spans=occlusion.spans,
        importance=tuple(round(value, 4) for value in importance),
        label=answers[slot],
        has_seconds=has_seconds,
    )
