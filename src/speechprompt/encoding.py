"""A corpus through a tokenizer into the unit store: each clip once, resumable, in batches of bounded length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from speechprompt.errors import AudioError, CorpusError
from speechprompt.speech.audio import AudioLimits, read_waveform
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.unit_store import UnitStore, file_key
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.tokenizers.protocol import Waveform

BATCH_SECONDS = 60.0
"""Audio that is decoded and encoded at once."""

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
) -> Encoded:
    """Give every utterance units: its own if it has them, the store's, or the tokenizer's.

    `store` None takes the default store of this tokenizer. `listener(done, total)` is told of progress.
    AudioError for the first unreadable clip (with `skip_unreadable` it is left out and listed); CorpusError
    when the corpus's units come from another tokenizer, or an utterance has neither audio nor units.
    """
    check_units(corpus, spoken_lm)
    bare = [u for u in corpus.utterances if u.units is None]
    if not bare:
        return Encoded(corpus)
    for utterance in bare:
        if utterance.audio is None:
            raise CorpusError(f"{corpus.name}: utterance '{utterance.id}' has neither audio nor units")
    if store is None:
        store = UnitStore(None, spoken_lm.tokenizer.fingerprint, "float32")
    work = _Work(spoken_lm, store, skip_unreadable)
    units = work.encode(bare, listener or (lambda done, total: None))
    kept = tuple(
        u if u.units is not None else replace(u, units=units[u.id])
        for u in corpus.utterances
        if u.units is not None or u.id in units
    )
    notices = [*sorted(set(work.notices)), *store.notices]
    return Encoded(
        replace(corpus, utterances=kept, tokenizer=spoken_lm.tokenizer_name), work.skipped, notices
    )


def check_units(corpus: Corpus, spoken_lm: SpokenLM) -> None:
    """CorpusError when the corpus carries units of another tokenizer than the spoken LM's."""
    carries = any(u.units is not None for u in corpus.utterances)
    if carries and corpus.tokenizer is not None and corpus.tokenizer != spoken_lm.tokenizer_name:
        raise CorpusError(
            f"{corpus.name} holds units of {corpus.tokenizer}, but {spoken_lm.name} reads units of "
            f"{spoken_lm.tokenizer_name}; pass --lm with an LM over those units"
        )


@dataclass
class _Work:
    spoken_lm: SpokenLM
    store: UnitStore
    skip_unreadable: bool
    skipped: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def encode(self, utterances: Sequence[Utterance], listener: Listener) -> dict[str, Units]:
        keys = self._keys(utterances)
        stored = self.store.get_many(keys.values())
        units = {identity: stored[key] for identity, key in keys.items() if key in stored}
        missing = [u for u in utterances if u.id in keys and u.id not in units]
        listener(len(utterances) - len(missing), len(utterances))
        for batch in self._batches(missing):
            found = self._encode_batch(batch)
            units |= found
            self.store.put_many({keys[identity]: row for identity, row in found.items()})
            listener(len(units) + len(self.skipped), len(utterances))
        return units

    def _keys(self, utterances: Sequence[Utterance]) -> dict[str, str]:
        keys = {}
        for u in utterances:
            assert u.audio is not None
            try:
                keys[u.id] = file_key(u.audio, u.start_seconds, u.end_seconds)
            except AudioError as error:
                self._skip(u, error)
        return keys

    def _skip(self, utterance: Utterance, error: AudioError) -> None:
        if not self.skip_unreadable:
            raise error
        self.skipped[utterance.id] = str(error)

    def _batches(self, utterances: Sequence[Utterance]) -> Iterator[list[tuple[Utterance, Waveform]]]:
        rate = self.spoken_lm.tokenizer.sample_rate
        batch: list[tuple[Utterance, Waveform]] = []
        seconds = 0.0
        for u in utterances:
            assert u.audio is not None
            try:
                waveform, notices = read_waveform(
                    u.audio, rate, u.start_seconds, u.end_seconds, AudioLimits()
                )
            except AudioError as error:
                self._skip(u, error)
                continue
            self.notices += [notice.replace(str(u.audio), "some clips") for notice in notices]
            batch.append((u, waveform))
            seconds += len(waveform) / rate
            if seconds >= BATCH_SECONDS:
                yield batch
                batch, seconds = [], 0.0
        if batch:
            yield batch

    def _encode_batch(self, batch: Sequence[tuple[Utterance, Waveform]]) -> dict[str, Units]:
        tokenizer = self.spoken_lm.tokenizer
        try:
            rows = tokenizer.encode_batch([waveform for _, waveform in batch])
            return {u.id: row for (u, _), row in zip(batch, rows, strict=True)}
        except AudioError:
            found = {}
            for u, waveform in batch:
                try:
                    found[u.id] = tokenizer.encode(waveform)
                except AudioError as error:
                    self._skip(u, AudioError(f"{u.audio}: {error}"))
            return found
