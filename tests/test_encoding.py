"""A corpus through a tokenizer: each clip once, resumable, and never units of another tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speechprompt import encoding
from speechprompt.encoding import encode_corpus
from speechprompt.errors import AudioError, CorpusError, UnitsError
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.speeds import AnswerCopies
from speechprompt.speech.unit_store import UnitStore
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus, toy_lm
from speechprompt.tokenizers.pitch import BatchPitchTracker
from speechprompt.tokenizers.prosody import ProsodyTokenizer


class CountingTokenizer(ToyTokenizer):
    """The toy, counting clips; it may be told to fail at one."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.encoded, self.fail_at = 0, fail_at

    def encode_batch(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Units]:
        if self.fail_at is not None and self.encoded >= self.fail_at:
            raise KeyboardInterrupt
        self.encoded += len(waveforms)
        return super().encode_batch(waveforms)


def spoken_of(tokenizer: ToyTokenizer) -> SpokenLM:
    return SpokenLM.of_parts("toy@1", tokenizer, toy_lm())


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    random = np.random.default_rng(0)
    rows = []
    for i in range(6):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, random.standard_normal(4000 + 800 * i) * 0.1 * (i + 1), 8000)
        rows.append(Utterance(str(i), "train", {"word": "ab"[i % 2]}, audio=path))
    rows.append(replace(rows[5], id="span", start_seconds=0.2, end_seconds=0.5))
    return Corpus("clips", tuple(rows), {"word": ("a", "b")})


def test_every_utterance_gets_the_units_of_its_audio(corpus: Corpus) -> None:
    told: list[tuple[int, int]] = []
    encoded = encode_corpus(corpus, spoken_of(ToyTokenizer()), listener=lambda *x: told.append(x))
    assert [u.id for u in encoded.corpus.utterances] == [u.id for u in corpus.utterances]
    assert encoded.corpus.tokenizer == "toy"
    for utterance in encoded.corpus.utterances:
        waveform, _ = soundfile.read(utterance.audio, dtype="float32")
        if utterance.id == "span":
            waveform = waveform[1600:4000]
        assert utterance.units == ToyTokenizer().encode(waveform)
    assert (told[0], told[-1]) == ((0, 7), (7, 7))


def test_f0_from_a_speaker_s_mean_knows_who_speaks(corpus: Corpus) -> None:
    """The same file said to be two speakers': units differ by their means, in the store too."""
    tokenizer = ProsodyTokenizer(ToyTokenizer(), BatchPitchTracker(), {"ana": 4.0, "bo": 5.0})
    spoken = SpokenLM.of_parts("toy@1", tokenizer, toy_lm())
    tone = corpus.utterances[0].audio
    assert tone is not None
    soundfile.write(tone, 0.3 * np.sin(np.arange(8000) * 2 * np.pi * 150 / 8000), 8000)
    rows = tuple(replace(corpus.utterances[0], id=name, speaker=name) for name in ("ana", "bo"))
    for _ in ("encoded", "from the store"):
        ana, bo = (u.units for u in encode_corpus(replace(corpus, utterances=rows), spoken).corpus.utterances)
        assert ana is not None
        assert bo is not None
        assert (ana.f0 - bo.f0).max() == pytest.approx(1.0, abs=1e-5)


def test_a_second_run_encodes_nothing(corpus: Corpus) -> None:
    first, second = CountingTokenizer(), CountingTokenizer()
    once = encode_corpus(corpus, spoken_of(first)).corpus
    assert encode_corpus(corpus, spoken_of(second)).corpus == once
    assert (first.encoded, second.encoded) == (7, 0)


def test_an_interrupted_run_goes_on_where_it_stopped(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH_SECONDS", 1.0)
    stopped, resumed = CountingTokenizer(fail_at=3), CountingTokenizer()
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(corpus, spoken_of(stopped))
    assert stopped.encoded >= 3
    encode_corpus(corpus, spoken_of(resumed))
    assert stopped.encoded + resumed.encoded == 7


def test_another_tokenizer_does_not_get_these_units(corpus: Corpus) -> None:
    encode_corpus(corpus, spoken_of(ToyTokenizer()))
    other = CountingTokenizer()
    other.fingerprint = "toy-tokenizer-2"
    encode_corpus(corpus, spoken_of(other))
    assert other.encoded == 7


def test_unreadable_clips_are_named_or_skipped(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_bytes(b"RIFF")
    (tmp_path / "2.wav").unlink()
    soundfile.write(tmp_path / "3.wav", np.zeros(20), 8000)
    with pytest.raises(AudioError, match=r"[123]\.wav"):
        encode_corpus(corpus, spoken_of(ToyTokenizer()))
    encoded = encode_corpus(corpus, spoken_of(ToyTokenizer()), skip_unreadable=True)
    assert set(encoded.skipped) == {"1", "2", "3"}
    assert all(f"{identity}.wav" in reason for identity, reason in encoded.skipped.items())
    assert [u.id for u in encoded.corpus.utterances] == ["0", "4", "5", "span"]
    assert all(u.units is not None for u in encoded.corpus.utterances)


@pytest.mark.parametrize("spoilt", ["broken", "gone", "short"])
def test_an_unreadable_clip_is_told_with_the_way_out(corpus: Corpus, tmp_path: Path, spoilt: str) -> None:
    path = tmp_path / "1.wav"
    path.unlink()
    if spoilt == "broken":
        path.write_bytes(b"RIFF")
    elif spoilt == "short":
        soundfile.write(path, np.zeros(20), 8000)
    with pytest.raises(AudioError, match=r"1\.wav .*; --skip-unreadable leaves such clips out$"):
        encode_corpus(corpus, spoken_of(ToyTokenizer()))


def test_a_clip_that_is_gone_before_its_copies_is_told_without_a_way_that_does_not_help(
    corpus: Corpus, tmp_path: Path
) -> None:
    spoken = spoken_of(ToyTokenizer())
    plain = encode_corpus(corpus, spoken).corpus
    (tmp_path / "1.wav").unlink()
    with pytest.raises(AudioError, match=r"1\.wav cannot be read .*; check the path$"):
        encoding.with_speed_copies(plain, spoken, [AnswerCopies(2)])


def test_clips_too_long_for_an_lm_are_named_or_skipped(corpus: Corpus) -> None:
    spoken, first = spoken_of(ToyTokenizer()), corpus.utterances[0]
    corpus = replace(corpus, utterances=(*corpus.utterances, replace(first, id="again")))
    units = {u.id: len(u.units or ()) for u in encode_corpus(corpus, spoken).corpus.utterances}
    most = units["0"] - 1
    encoded = encode_corpus(corpus, spoken, skip_unreadable=True, most_units=most)
    assert encoded.skipped.keys() == {"0", "again"}
    assert {u.id for u in encoded.corpus.utterances} == units.keys() - {"0", "again"}
    for given in (corpus, encode_corpus(corpus, spoken).corpus):  # with units or without
        with pytest.raises(UnitsError, match=rf"'0' has {most + 1} units and the LM reads {most} .*1 more"):
            encode_corpus(given, spoken, most_units=most)


def test_foreign_units_are_refused() -> None:
    corpus = replace(toy_corpus(10), tokenizer="hubert-base-l6-km100")
    with pytest.raises(CorpusError, match=r"units of hubert-base-l6-km100.*units of toy"):
        encode_corpus(corpus, spoken_of(ToyTokenizer()))


def test_units_need_no_tokenizer() -> None:
    corpus = toy_corpus(10)

    def absent() -> ToyTokenizer:
        raise AssertionError("the tokenizer was loaded")

    spoken = SpokenLM("toy@1", absent, toy_lm, "toy")
    assert encode_corpus(corpus, spoken).corpus is corpus


def test_neither_audio_nor_units() -> None:
    bare = Corpus("x", (Utterance("a", "train", {"word": "a"}),), {"word": ("a", "b")})
    with pytest.raises(CorpusError, match="'a' has neither audio nor units"):
        encode_corpus(bare, spoken_of(ToyTokenizer()))


def test_a_store_that_cannot_be_written_is_a_notice(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = UnitStore(tmp_path / "file", "toy-tokenizer-1", "float32")
    encoded = encode_corpus(corpus, spoken_of(ToyTokenizer()), store)
    assert all(u.units is not None for u in encoded.corpus.utterances)
    assert any("not stored" in notice for notice in encoded.notices)
