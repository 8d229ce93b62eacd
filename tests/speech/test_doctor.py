"""The doctor: finds what was planted, and nothing in a healthy corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechprompt.speech.doctor import DoctorReport, Finding, examine
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.units import Units

SLOTS = {"label": ("yes", "no")}


def tone(seconds: float, number: int, level: float = 0.3) -> np.ndarray:
    return level * np.sin(np.arange(round(seconds * 16_000)) * (0.02 + 0.001 * number))


@pytest.fixture
def healthy(tmp_path: Path) -> Corpus:
    utterances = []
    for number in range(12):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, tone(0.5 + number / 100, number), 16_000)
        split = ("train", "train", "train", "train", "valid", "test")[number // 2]
        utterances.append(
            Utterance(f"u{number}", split, {"label": SLOTS["label"][number % 2]}, path, speaker=f"s{split}")
        )
    return Corpus("toy", tuple(utterances), SLOTS)


def changed(corpus: Corpus, number: int, **fields: object) -> Corpus:
    rows = list(corpus.utterances)
    rows[number] = replace(rows[number], **fields)  # type: ignore[arg-type]
    return replace(corpus, utterances=tuple(rows))


def found(report: DoctorReport, kind: str) -> Finding:
    (finding,) = [f for f in report.findings if f.kind == kind]
    assert "\n" not in finding.text
    return finding


def audio(corpus: Corpus, number: int) -> Path:
    path = corpus.utterances[number].audio
    assert path is not None
    return path


def test_clips_that_an_lm_may_not_read_are_noted(healthy: Corpus) -> None:
    soundfile.write(audio(healthy, 3), tone(20.5, 3), 16_000)
    finding = found(examine(healthy), "long")
    assert (finding.severity, finding.utterances) == ("note", ("u3",))
    assert "longer than 20 s and may be too long for the LM" in finding.text


def test_a_healthy_corpus_has_no_findings(healthy: Corpus) -> None:
    seen: list[tuple[int, int]] = []
    report = examine(healthy, progress=lambda done, total: seen.append((done, total)))
    assert report.findings == ()
    assert report.healthy
    assert report.sample_rates == {16_000: 12}
    assert report.splits == {"train": 8, "valid": 2, "test": 2}
    assert report.labels == {
        "label": {s: {"yes": n, "no": n} for s, n in (("train", 4), ("valid", 1), ("test", 1))}
    }
    assert report.durations is not None
    assert report.durations.minimum_seconds == pytest.approx(0.5)
    assert report.durations.median_seconds == pytest.approx(0.555)
    assert report.durations.maximum_seconds == pytest.approx(0.61)
    assert report.silence_share == 0
    assert seen[-1] == (12, 12)
    assert json.loads(json.dumps(report.to_json()))["utterance_count"] == 12


def test_unreadable_files_are_listed_not_raised(healthy: Corpus) -> None:
    audio(healthy, 3).write_text("not audio")
    audio(healthy, 4).unlink()
    report = examine(healthy)
    assert found(report, "unreadable").utterances == ("u3", "u4")
    assert not report.healthy
    assert sum(report.sample_rates.values()) == 10


def test_a_clip_without_permission_is_listed_not_raised(
    healthy: Corpus, close: Callable[[Path], None]
) -> None:
    close(audio(healthy, 3))
    finding = found(examine(healthy), "unreadable")
    assert finding.utterances == ("u3",)
    assert f"first: {audio(healthy, 3)} cannot be read (Permission denied); check" in finding.text


def test_silence_clipping_length_and_rates_are_found(healthy: Corpus) -> None:
    soundfile.write(audio(healthy, 0), np.zeros(8_000), 16_000)
    soundfile.write(audio(healthy, 1), np.clip(tone(0.5, 1, 5.0), -1, 1), 16_000)
    soundfile.write(audio(healthy, 2), tone(0.01, 2), 16_000)
    soundfile.write(audio(healthy, 3), tone(61, 3)[::2], 8_000)
    report = examine(healthy)
    assert {f.kind: f.utterances for f in report.findings} == {
        "silent": ("u0",),
        "clipped": ("u1",),
        "short": ("u2",),
        "sample_rate": ("u3",),
        "long": ("u3",),
    }
    assert report.sample_rates == {8_000: 1, 16_000: 11}
    assert report.silence_share == pytest.approx(0.5 / (61 + 11 * 0.56), rel=0.05)


def test_one_peak_at_full_scale_is_not_clipping(healthy: Corpus) -> None:
    samples = tone(0.5, 1)
    samples[100] = 1.0
    soundfile.write(audio(healthy, 1), samples, 16_000)
    assert examine(healthy).findings == ()


def test_the_same_sound_in_two_files_is_found_across_and_within_splits(healthy: Corpus) -> None:
    sound, rate = soundfile.read(audio(healthy, 0), dtype="int16")
    for number, name in ((2, "copy.flac"), (11, "leak.flac")):
        path = audio(healthy, number).with_name(name)
        soundfile.write(path, sound, rate)
        healthy = changed(healthy, number, audio=path)
    report = examine(healthy)
    assert found(report, "leakage").utterances == ("u0", "u2", "u11")
    assert found(report, "leakage").severity == "error"
    assert found(report, "duplicate").utterances == ("u2",)
    assert found(report, "conflict").utterances == ("u0", "u2", "u11")  # u11 says no, the others yes


def test_spans_of_one_file_are_not_duplicates(healthy: Corpus) -> None:
    whole = audio(healthy, 0)
    for number in (0, 2):
        span = {"audio": whole, "start_seconds": number / 10, "end_seconds": number / 10 + 0.15}
        healthy = changed(healthy, number, **span)
    assert examine(healthy).findings == ()


def test_speakers_in_two_splits_are_found(healthy: Corpus) -> None:
    report = examine(changed(healthy, 0, speaker="stest"))
    finding = found(report, "speakers")
    assert finding.text.startswith("1 of 3 speakers")
    assert finding.utterances == ("u0", "u10", "u11")
    unknown = replace(healthy, utterances=tuple(replace(u, speaker=None) for u in healthy.utterances))
    assert found(examine(unknown), "speakers").severity == "note"


def test_missing_and_uneven_labels_are_found() -> None:
    def row(number: int, split: str, label: str) -> Utterance:
        return Utterance(f"{split}{number}", split, {"label": label}, units=Units([number]), speaker=split)

    rows = [row(i, "train", "yes") for i in range(33)] + [row(i, "train", "no") for i in range(34, 37)]
    rows.append(row(90, "test", "yes"))
    bare = Utterance("bare", "test", {}, units=Units([99]), speaker="test")
    report = examine(Corpus("toy", (*rows, bare), {"label": ("yes", "no", "{n}")}))
    missing = [f for f in report.findings if f.kind == "missing_label"]
    assert [(f.severity, f.text) for f in missing] == [
        ("error", "1 labels of label never occur in train: {n}"),
        ("warning", "2 labels of label never occur in test: no, {n}"),
    ]
    assert "from 3 to 33" in found(report, "balance").text
    unlabelled = found(report, "unlabelled")
    assert (unlabelled.severity, unlabelled.utterances) == ("error", ("bare",))


def of_labels(*labels: str) -> Corpus:
    """Ten utterances a label, in two splits."""
    rows = [
        Utterance(f"{label}{i}", "train" if i else "valid", {"label": label}, units=Units([number, i]))
        for number, label in enumerate(labels)
        for i in range(10)
    ]
    return Corpus("toy", tuple(rows), {"label": labels})


@pytest.mark.parametrize(
    ("one", "other"), [("Bed", "bed"), ("New York", "new_york"), ("turn-on", "turnon"), ("up-1", "up_1")]
)
def test_labels_that_differ_only_in_how_they_are_spelt_are_told(one: str, other: str) -> None:
    report = examine(of_labels(one, "{n}", other))
    finding = found(report, "spelling")
    assert (finding.severity, finding.count, report.healthy) == ("warning", 20, True)
    assert f"'{one}' and '{other}'; give them one name" in finding.text


def test_spellings_of_many_labels_are_shown_in_part() -> None:
    report = examine(of_labels(*(word + end for word in "abcdef" for end in ("", "_"))))
    assert "'d' and 'd_', …; give" in found(report, "spelling").text


@pytest.mark.parametrize("labels", [("-1", "1"), ("1_12", "11_2"), ("bed", "bird"), ("c++", "c")])
def test_labels_that_are_two_are_not_told(labels: tuple[str, str]) -> None:
    assert not [f for f in examine(of_labels(*labels)).findings if f.kind == "spelling"]


def test_corpora_of_units_are_compared_by_their_units() -> None:
    rows = (
        Utterance("a", "train", {"label": "yes"}, units=Units([1, 2], [3, 4])),
        Utterance("b", "train", {"label": "no"}, units=Units([1, 2], [3, 5])),
        Utterance("c", "test", {"label": "no"}, units=Units([1, 2], [3, 4])),
        Utterance("d", "test", {"label": "yes"}, units=Units([])),
        Utterance("e", "train", {"label": "yes"}, units=Units([])),
    )
    report = examine(Corpus("toy", rows, SLOTS))
    assert found(report, "leakage").utterances == ("a", "c")
    assert found(report, "conflict").count == 2
    assert report.durations is None
    assert report.silence_share is None


def test_without_reading_audio_no_file_is_opened(healthy: Corpus) -> None:
    audio(healthy, 0).unlink()
    assert examine(healthy, read_audio=False).findings == ()
