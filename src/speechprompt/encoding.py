"""A corpus through a tokenizer into the unit store: each clip once, resumable, in batches of bounded length.

Clips may be encoded at other speeds too, for training to hear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from speechprompt.errors import AudioError, CorpusError, UnitsError
from speechprompt.speech.audio import AudioLimits, read_waveform
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.speeds import AnswerCopies, SpeedCopies, at_speed, speed_key
from speechprompt.speech.unit_store import UnitStore, file_key
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.tokenizers.prosody import ProsodyTokenizer
from speechprompt.tokenizers.protocol import Waveform, precision_of

BATCH_SECONDS = 60.0
"""Audio that is decoded and encoded at once."""

PLAIN = 1.0
"""The speed of a clip as it was recorded."""

Listener = Callable[[int, int], None]


@dataclass
class Encoded:
    """A corpus in which every kept utterance carries units; what was skipped and what users should know."""

    corpus: Corpus
    skipped: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def encode_corpus(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    store: UnitStore | None = None,
    listener: Listener | None = None,
    skip_unreadable: bool = False,
    most_units: int | None = None,
) -> Encoded:
    """Give every utterance units: its own if it has them, the store's, or the tokenizer's.

    `store` None takes the default store of this tokenizer. `listener(done, total)` is told of progress.
    AudioError for the first unreadable clip, UnitsError for the first utterance of more than `most_units` (None: any
    number); with `skip_unreadable` these are left out and listed. CorpusError when the corpus's units come from
    another tokenizer, or an utterance has neither audio nor units.
    """
    check_units(corpus, spoken_lm)
    bare = [u for u in corpus.utterances if u.units is None]
    if not bare:
        return _of_length(Encoded(corpus), most_units, skip_unreadable)
    for utterance in bare:
        if utterance.audio is None:
            raise CorpusError(f"{corpus.name}: utterance '{utterance.id}' has neither audio nor units")
    work = _Work(spoken_lm, _store(store, spoken_lm), skip_unreadable)
    units = work.encode([_Clip(u) for u in bare], listener)
    kept = tuple(
        u if u.units is not None else replace(u, units=units[u.id, PLAIN])
        for u in corpus.utterances
        if u.units is not None or (u.id, PLAIN) in units
    )
    tokenizer = spoken_lm.tokenizer_name
    found = Encoded(replace(corpus, utterances=kept, tokenizer=tokenizer), work.skipped, work.told())
    return _of_length(found, most_units, skip_unreadable)


def check_lengths(utterances: Iterable[Utterance], most_units: int) -> None:
    """UnitsError that names the first utterance of more than `most_units`, and counts the others."""
    reasons = list(_too_long(utterances, most_units).values())
    if reasons:
        more = f" ({len(reasons) - 1} more clips are too long)" if len(reasons) > 1 else ""
        raise UnitsError(f"{reasons[0]}, or leave it out with --skip-unreadable{more}")


def _too_long(utterances: Iterable[Utterance], most_units: int) -> dict[str, str]:
    """Utterances of more than `most_units`, and what is said of each."""
    return {
        u.id: f"'{u.id}' has {len(u.units):,} units and the LM reads {most_units:,} at most; cut it into shorter clips"
        for u in utterances
        if u.units is not None and len(u.units) > most_units
    }


def _of_length(found: Encoded, most_units: int | None, skip: bool) -> Encoded:
    """Without the utterances of more than `most_units`, which `skip` lists; without it, UnitsError for the first."""
    if most_units is None:
        return found
    if not skip:
        check_lengths(found.corpus.utterances, most_units)
    long = _too_long(found.corpus.utterances, most_units)
    kept = tuple(u for u in found.corpus.utterances if u.id not in long)
    return Encoded(replace(found.corpus, utterances=kept), {**found.skipped, **long}, found.notices)


def with_speed_copies(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    wanted: Iterable[SpeedCopies | AnswerCopies],
    store: UnitStore | None = None,
    listener: Listener | None = None,
    splits: Collection[str] | None = ("train",),
) -> Encoded:
    """Give the utterances of `splits` (None: all) their units at other speeds, to train on or to be answered with.

    The corpus must carry units. Speeds that an utterance already has are not encoded again; one without audio stays
    as it is, with a notice; a copy too short for one unit, or too long for the LM, is the clip as it was recorded.
    Errors: those of audio.
    """
    asked = [copies for copies in wanted if copies.copies]
    chosen = {u.id for u in corpus.utterances if asked and (splits is None or u.split in splits)}
    bare = sum(u.audio is None for u in corpus.utterances if u.id in chosen)
    clips = [
        _Clip(u, speed)
        for u in corpus.utterances
        if u.id in chosen and u.audio is not None
        for speed in sorted(
            {speed for copies in asked for speed in copies.speeds(u.id)} - set(u.speed_copies)
        )
    ]
    notice = f"{bare} of {len(chosen)} utterances have units and no audio; they stay without speed copies"
    notices = [notice] if bare else []
    if not clips:
        return Encoded(corpus, notices=notices)
    work = _Work(spoken_lm, _store(store, spoken_lm), skip_unreadable=False, skip_short=True)
    units = work.encode(clips, listener)
    found: dict[str, dict[float, Units]] = {}
    for clip in clips:
        plain = clip.utterance.units
        assert plain is not None, "speed copies come after plain units"
        copy = units.get(clip.name, plain)
        copy = copy if len(copy) <= spoken_lm.lm.max_units else plain
        found.setdefault(clip.utterance.id, dict(clip.utterance.speed_copies))[clip.speed] = copy
    utterances = tuple(
        replace(u, speed_copies=found[u.id]) if u.id in found else u for u in corpus.utterances
    )
    return Encoded(replace(corpus, utterances=utterances), notices=[*notices, *work.store.notices])


def _store(store: UnitStore | None, spoken_lm: SpokenLM) -> UnitStore:
    tokenizer = spoken_lm.tokenizer
    return UnitStore(None, tokenizer.fingerprint, precision_of(tokenizer)) if store is None else store


def check_units(corpus: Corpus, spoken_lm: SpokenLM) -> None:
    """CorpusError when the corpus carries units of another tokenizer than the spoken LM's."""
    carries = any(u.units is not None for u in corpus.utterances)
    if carries and corpus.tokenizer is not None and corpus.tokenizer != spoken_lm.tokenizer_name:
        raise CorpusError(
            f"{corpus.name} holds units of {corpus.tokenizer}, but {spoken_lm.name} reads units of "
            f"{spoken_lm.tokenizer_name}; pass --lm with an LM over those units"
        )


@dataclass(frozen=True, slots=True)
class _Clip:
    """An utterance's audio at a speed."""

    utterance: Utterance
    speed: float = PLAIN

    @property
    def name(self) -> tuple[str, float]:
        """What it is called among the clips of its corpus."""
        return self.utterance.id, self.speed

    def key(self, by_speaker: bool) -> str:
        """Its key in a unit store, the speaker's where units depend on who speaks.

        AudioError when the file cannot be read.
        """
        u = self.utterance
        assert u.audio is not None
        plain = file_key(u.audio, u.start_seconds, u.end_seconds)
        if by_speaker and u.speaker is not None:
            plain = hashlib.sha256(f"{plain} of {u.speaker}".encode()).hexdigest()
        return plain if self.speed == PLAIN else speed_key(plain, self.speed)


@dataclass
class _Work:
    spoken_lm: SpokenLM
    store: UnitStore
    skip_unreadable: bool
    skip_short: bool = False
    skipped: dict[str, str] = field(default_factory=dict)
    notices: set[str] = field(default_factory=set)

    def told(self) -> list[str]:
        """What users should know, each line once."""
        return [*sorted(self.notices), *self.store.notices]

    def encode(self, clips: Sequence[_Clip], listener: Listener | None) -> dict[tuple[str, float], Units]:
        tell = listener or (lambda done, total: None)
        keys = self._keys(clips)
        stored = self.store.get_many(keys.values())
        units = {name: stored[key] for name, key in keys.items() if key in stored}
        missing = [clip for clip in clips if clip.name in keys and clip.name not in units]
        done = len(clips) - len(missing)
        tell(done, len(clips))
        for batch in self._batches(missing):
            found = self._encode_batch(batch)
            units |= found
            self.store.put_many({keys[name]: row for name, row in found.items()})
            done += len(batch)
            tell(done, len(clips))
        return units

    @property
    def _by_speaker(self) -> bool:
        tokenizer = self.spoken_lm.tokenizer
        return isinstance(tokenizer, ProsodyTokenizer) and bool(tokenizer.means)

    def _units(self, clips: Sequence[_Clip], waveforms: list[Waveform]) -> list[Units]:
        tokenizer = self.spoken_lm.tokenizer
        if isinstance(tokenizer, ProsodyTokenizer):
            return tokenizer.encode_batch(waveforms, [clip.utterance.speaker for clip in clips])
        return tokenizer.encode_batch(waveforms)

    def _keys(self, clips: Sequence[_Clip]) -> dict[tuple[str, float], str]:
        keys = {}
        for clip in clips:
            try:
                keys[clip.name] = clip.key(self._by_speaker)
            except AudioError as error:
                self._skip(clip.utterance, error)
        return keys

    def _skip(self, utterance: Utterance, error: AudioError, was_read: bool = False) -> None:
        """List an utterance as skipped; where that was not asked for, the error with how to ask for it."""
        if self.skip_unreadable or (was_read and self.skip_short):
            self.skipped[utterance.id] = str(error)
        elif self.skip_short:  # a copy at another speed, whose clip was read before: nothing leaves it out
            raise error
        else:
            raise type(error)(f"{error}; --skip-unreadable leaves such clips out") from error

    def _batches(self, clips: Sequence[_Clip]) -> Iterator[list[tuple[_Clip, Waveform]]]:
        rate = self.spoken_lm.tokenizer.sample_rate
        batch: list[tuple[_Clip, Waveform]] = []
        seconds = 0.0
        last: tuple[Utterance, Waveform] | None = None  # the speeds of one clip are neighbours: decoded once
        for clip in clips:
            if last is None or last[0] is not clip.utterance:
                waveform = self._read(clip.utterance, rate)
                last = None if waveform is None else (clip.utterance, waveform)
            if last is None:
                continue
            played = last[1] if clip.speed == PLAIN else at_speed(last[1], clip.speed)
            batch.append((clip, played))
            seconds += len(played) / rate
            if seconds >= BATCH_SECONDS:
                yield batch
                batch, seconds = [], 0.0
        if batch:
            yield batch

    def _read(self, utterance: Utterance, rate: int) -> Waveform | None:
        """The samples of an utterance; None when it was skipped."""
        assert utterance.audio is not None
        span = utterance.start_seconds, utterance.end_seconds
        try:
            waveform, notices = read_waveform(utterance.audio, rate, *span, AudioLimits())
        except AudioError as error:
            self._skip(utterance, error)
            return None
        self.notices |= {notice.replace(str(utterance.audio), "some clips") for notice in notices}
        return waveform

    def _encode_batch(self, batch: Sequence[tuple[_Clip, Waveform]]) -> dict[tuple[str, float], Units]:
        try:
            rows = self._units([clip for clip, _ in batch], [waveform for _, waveform in batch])
            return {clip.name: row for (clip, _), row in zip(batch, rows, strict=True)}
        except AudioError:
            found = {}
            for clip, waveform in batch:
                try:
                    [found[clip.name]] = self._units([clip], [waveform])
                except AudioError as error:
                    said = str(error).removeprefix("clip 0 ")
                    self._skip(clip.utterance, AudioError(f"{clip.utterance.audio} {said}"), was_read=True)
            return found
