"""Many clips through a predictor: in batches of bounded length, where one clip's failure is its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speechprompt.errors import AudioError, SpeechPromptError
from speechprompt.prompting.clips import Clip
from speechprompt.prompting.loaded import LoadedPrompt
from speechprompt.prompting.predictor import Prediction, Predictor, Question
from speechprompt.speech.audio import read_waveform, read_waveform_bytes
from speechprompt.speech.units import Units
from speechprompt.tokenizers.protocol import Waveform

BATCH_CLIPS = 64
BATCH_SECONDS = 60.0
"""Audio that is decoded and encoded at once."""
ROW_ERRORS = (SpeechPromptError, OSError, MemoryError)
"""What a clip can do wrong without stopping the others."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A clip to answer: a file or a span of one, bytes of a file, or units. `id` names it in the answers.

    `refused` says why it is not read.
    """

    id: str
    path: Path | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    units: Units | None = None
    content: bytes | None = None
    refused: str | None = None

    @property
    def source(self) -> str:
        """Where the sound is; the id where there is no file."""
        return self.id if self.path is None else str(self.path)


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a clip: a prediction a prompt, or why there is none."""

    clip: Listed
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None


def answer_all(
    predictor: Predictor, listed: Iterable[Listed], prompts: Sequence[LoadedPrompt]
) -> Iterator[Answered]:
    """Answer every clip with every prompt, in order; clips are decoded as they are needed.

    ArtifactError, before the first clip, when a prompt was trained on other units than the predictor makes.
    """
    checked = False
    for batch in _batches(predictor, listed):
        if not checked and any(isinstance(heard, _Heard) and heard.waveform is not None for heard in batch):
            predictor.check_units(prompts)
            checked = True
        yield from _answer_batch(predictor, batch, prompts)


@dataclass(frozen=True, slots=True)
class _Heard:
    listed: Listed
    waveform: Waveform | None
    notices: tuple[str, ...] = ()


def _batches(predictor: Predictor, listed: Iterable[Listed]) -> Iterator[list[_Heard | Answered]]:
    batch: list[_Heard | Answered] = []
    seconds = 0.0
    for one in listed:
        heard = _hear(predictor, one)
        batch.append(heard)
        if isinstance(heard, _Heard) and heard.waveform is not None:
            seconds += len(heard.waveform) / predictor.spoken_lm.tokenizer.sample_rate
        if len(batch) == BATCH_CLIPS or seconds >= BATCH_SECONDS:
            yield batch
            batch, seconds = [], 0.0
    if batch:
        yield batch


def _hear(predictor: Predictor, one: Listed) -> _Heard | Answered:
    try:
        if one.refused is not None:
            raise AudioError(one.refused)
        if one.units is not None:
            return _Heard(one, None)
        limits, rate = predictor.limits, predictor.spoken_lm.tokenizer.sample_rate
        if one.content is not None:
            return _Heard(one, *read_waveform_bytes(one.content, rate, limits=limits))
        if one.path is None:
            raise AudioError(f"'{one.id}' has neither audio nor units")
        return _Heard(one, *read_waveform(one.path, rate, one.start_seconds, one.end_seconds, limits))
    except ROW_ERRORS as error:
        return Answered(one, error=_reason(one, error))


def _answer_batch(
    predictor: Predictor, batch: Sequence[_Heard | Answered], prompts: Sequence[LoadedPrompt]
) -> list[Answered]:
    """The batch answered together; one by one where together fails."""
    heard = [one for one in batch if isinstance(one, _Heard)]
    try:
        answered = iter(_answer(predictor, heard, prompts))
    except ROW_ERRORS:
        answered = (_answer_alone(predictor, one, prompts) for one in heard)
    return [one if isinstance(one, Answered) else next(answered) for one in batch]


def _answer_alone(predictor: Predictor, heard: _Heard, prompts: Sequence[LoadedPrompt]) -> Answered:
    try:
        return _answer(predictor, [heard], prompts)[0]
    except ROW_ERRORS as error:
        return Answered(heard.listed, error=_reason(heard.listed, error))


def _answer(predictor: Predictor, heard: Sequence[_Heard], prompts: Sequence[LoadedPrompt]) -> list[Answered]:
    waveforms = [one.waveform for one in heard if one.waveform is not None]
    encoded = iter(predictor.encode(waveforms, prompts) if waveforms else [])
    clips = []
    for one in heard:
        clip = _clip_of_units(one.listed) if one.waveform is None else next(encoded)
        clips.append(replace(clip, source=one.listed.source, notices=one.notices))
    found = iter(predictor.answer([Question(clip, prompt) for clip in clips for prompt in prompts]))
    return [Answered(one.listed, tuple(next(found) for _ in prompts)) for one in heard]


def _clip_of_units(listed: Listed) -> Clip:
    """A clip that came as units; how long it lasts only its tokenizer knows, which is not loaded for that."""
    if listed.units is None or not len(listed.units):
        raise AudioError(f"'{listed.id}' has no units")
    return Clip((listed.units,), 0.0)


def _reason(listed: Listed, error: BaseException) -> str:
    text = " ".join((str(error) or type(error).__name__).split())
    return text if listed.source in text or listed.id in text else f"{listed.source}: {text}"
