"""doctor, encode, baseline, corpora, lms convert and cache: thin layers that must say what the library says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.material import Run, rewritten, write_tone
from speechprompt import SpokenLM
from speechprompt.corpora import corpus_names
from speechprompt.speech.doctor import examine
from speechprompt.speech.manifest import Corpus
from speechprompt.testing import ToyTokenizer, toy_lm


def test_doctor_says_what_the_library_says(run: Run, clips: Path) -> None:
    ran = run("doctor", clips, "--json", "--quiet")
    expected = examine(Corpus.read(clips))
    assert ran.code == (0 if expected.healthy else 1)
    assert ran.document == json.loads(json.dumps({**expected.to_json(), "healthy": expected.healthy}))


def test_doctor_ends_with_1_when_a_clip_is_in_two_splits(run: Run, units: Path, tmp_path: Path) -> None:
    leaky = rewritten(
        units, tmp_path / "leaky.jsonl", lambda rows: [*rows, rows[1] | {"id": "copy", "split": "test"}]
    )
    ran = run("doctor", leaky, "--quiet")
    assert ran.code == 1
    assert "more than one split" in ran.out
    assert run("doctor", units, "--quiet").code == 0


def test_encode_writes_units_that_train_without_audio(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "units.jsonl.gz"
    ran = run("encode", clips, "--lm", toy, "--out", out, "--json", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    written = Corpus.read(out)
    assert ran.document["utterances"] == len(written.utterances) == 24
    first = written.utterances[0]
    assert first.units is not None
    assert first.audio is not None
    import soundfile

    waveform, _ = soundfile.read(first.audio, dtype="float32")
    assert first.units == ToyTokenizer().encode(waveform)
    again = run("encode", clips, "--lm", toy, "--out", out, "--quiet")
    assert "--force" in again.error


def test_encode_reads_the_columns_of_labels_that_are_named(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path
) -> None:
    rows = [f"{path},{path.parent.name}" for path in sorted(clips.glob("*/*.wav"))]
    source, out = tmp_path / "words.csv", tmp_path / "units.jsonl"
    source.write_text("\n".join(["path,pitch", *rows]) + "\n")
    assert run("encode", source, "--lm", toy, "--out", out, "--slots", "pitch", "--quiet").code == 0
    assert Corpus.read(out).slots == {"pitch": ("high", "low")}


def test_baseline_names_the_row_without_a_label(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    def bare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*rows[:3], rows[3] | {"labels": {"word": rows[3]["labels"]["word"]}}, *rows[4:]]

    ran = run("baseline", rewritten(units, tmp_path / "bare.jsonl", bare), "--lm", toy, "--quiet")
    assert "'toy_0002' has no label for length" in ran.error


def test_encode_skips_only_when_asked(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    (folder / "low" / "broken.wav").write_bytes(b"RIFF")
    command = ("encode", folder, "--lm", toy, "--out", tmp_path / "units.jsonl", "--quiet")
    ran = run(*command)
    assert ran.code == 1
    assert "broken.wav" in ran.error
    assert not (tmp_path / "units.jsonl").exists()
    assert run(*command, "--skip-unreadable").code == 0
    assert len(Corpus.read(tmp_path / "units.jsonl").utterances) == 24


def test_baseline_needs_no_lm_for_units_of_another_tokenizer(
    run: Run, toy: Path, units: Path, tmp_path: Path
) -> None:
    foreign = rewritten(
        units, tmp_path / "a.jsonl", lambda rows: [rows[0] | {"tokenizer": "other"}, *rows[1:]]
    )
    ran = run("baseline", foreign, "--lm", toy, "--slots", "word", "--json")
    assert ran.code == 0
    assert "no probe" in ran.err
    assert [b["name"] for b in ran.document["baselines"]] == ["majority", "n-gram"]
    whole = run("baseline", units, "--lm", toy, "--slots", "word", "--json", "--quiet").document
    assert [b["name"] for b in whole["baselines"]] == ["majority", "n-gram", "probe"]
    assert whole["baselines"][1]["accuracy"] == ran.document["baselines"][1]["accuracy"]


def test_baseline_names_the_splits_that_exist(run: Run, toy: Path, units: Path) -> None:
    ran = run("baseline", units, "--lm", toy, "--split", "tset", "--quiet")
    assert ran.code == 1
    assert "it has train, valid, test" in ran.error


def test_corpora_prepare_and_check_refuse_another_folder(run: Run, tmp_path: Path) -> None:
    for command in (
        ("prepare", "fsdd", tmp_path, "--out", tmp_path / "m.jsonl"),
        ("check", "fsdd", tmp_path),
    ):
        ran = run("corpora", *command, "--quiet")
        assert ran.code == 1
        assert ran.error
    assert list(tmp_path.iterdir()) == []


def test_corpora_lists_what_a_user_must_know_before_the_download(run: Run) -> None:
    listed = {about["name"]: about for about in run("corpora", "--json").document}
    assert list(listed) == list(corpus_names())
    text = run("corpora").out
    for name, about in listed.items():
        assert all(f"{name}:{task}" in text for task in about["tasks"])
        assert about["licence"] in text
        assert about["url"] in text
        assert about["by_hand"] in text
    assert "IEMOCAP (en, 12 h, 5,531 utterances)" in text
    assert "by hand: sign the release form" in text
    assert "Fluent Speech Commands (en, 19 h, 30,043 utterances)" in text
    one = run("corpora", "list", "ravdess").out
    assert "variant 4: neutral, happy, sad and angry" in one
    assert "split folds:" in one
    assert "esc-50" not in one
    assert "did you mean ravdess" in run("corpora", "list", "ravdes").error


def test_corpora_check_counts_every_label_and_prepare_can_open_every_file(run: Run, tmp_path: Path) -> None:
    recordings = tmp_path / "fsdd" / "recordings"
    recordings.mkdir(parents=True)
    for digit in range(10):
        for take in range(6):
            write_tone(recordings / f"{digit}_theo_{take}.wav", 200 + 50 * digit, take)
    ran = run("corpora", "check", "fsdd", tmp_path / "fsdd")
    assert ran.code == 1
    assert ["digit", "3", "1", "5", "300"] in [line.split() for line in ran.out.splitlines()]
    rows = run("corpora", "check", "fsdd", tmp_path / "fsdd", "--json").document["labels"]
    assert rows[3] == {"slot": "digit", "label": "3", "train": 1, "test": 5, "published": 300}
    assert rows[-1] == {"slot": "speaker", "label": "theo", "train": 10, "test": 50, "published": None}
    damaged = recordings / "4_theo_2.wav"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    out = tmp_path / "m.jsonl"
    command = ("corpora", "prepare", "fsdd", tmp_path / "fsdd", "--out", out, "--quiet")
    assert run(*command).code == 0
    ran = run(*command, "--force", "--check")
    assert ran.code == 1
    assert "4_theo_2.wav is truncated" in ran.error
    assert "--skip-unreadable" in ran.error
    assert run(*command, "--force", "--skip-unreadable", "--json").document["skipped"] == 1


def test_corpora_prepare_writes_a_manifest(run: Run, tmp_path: Path) -> None:
    recordings = tmp_path / "fsdd" / "recordings"
    recordings.mkdir(parents=True)
    for digit in range(10):
        for speaker in ("jackson", "theo"):
            for take in range(6):
                write_tone(recordings / f"{digit}_{speaker}_{take}.wav", 200 + 50 * digit, take)
    out = tmp_path / "fsdd.jsonl"
    ran = run("corpora", "prepare", "fsdd", tmp_path / "fsdd", "--out", out, "--json", "--quiet")
    assert ran.code == 0, ran.err
    assert ran.document["rows"] == 120 == len(Corpus.read(out).utterances)
    checked = run("corpora", "check", "fsdd", tmp_path / "fsdd", "--json", "--quiet")
    assert checked.code == 1
    assert checked.document["complete"] is False


def test_convert_reads_a_fairseq_checkpoint(run: Run, tmp_path: Path) -> None:
    lm = toy_lm()
    tensors = {
        (name if name.startswith("decoder.") else f"decoder.{name}"): tensor
        for name, tensor in lm.model.state_dict().items()
    }
    folder = tmp_path / "gslm"
    folder.mkdir()
    options = {"model": {"decoder_attention_heads": lm.heads}}
    torch.save({"model": tensors, "cfg": options}, folder / "checkpoint_best.pt")
    (folder / "dict.txt").write_text("".join(f"{unit} 1\n" for unit in range(lm.unit_count)))
    out = tmp_path / "converted"
    unnamed = run("lms", "convert", folder, "--out", out, "--quiet")
    assert unnamed.code == 2
    assert "--tokenizer" in unnamed.error
    ran = run("lms", "convert", folder, "--out", out, "--tokenizer", "toy", "--json", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert SpokenLM.load(out).lm.fingerprint == lm.fingerprint == ran.document["fingerprint"]
    assert "--force" in run("lms", "convert", folder, "--out", out, "--tokenizer", "toy", "--quiet").error
    ran = run(
        "lms", "convert", tmp_path / "none.pt", "--out", tmp_path / "b", "--tokenizer", "toy", "--quiet"
    )
    assert ran.code == 1
    assert ran.error


def test_fetch_without_a_network_says_where_the_file_goes(run: Run) -> None:
    ran = run("lms", "fetch", "gslm-hubert100", "--quiet")
    assert ran.code == 1
    assert "put the file at" in ran.error


def test_cache_is_listed_and_cleared(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path
) -> None:
    assert run("encode", clips, "--lm", toy, "--out", tmp_path / "units.jsonl", "--quiet").code == 0
    [store] = run("cache", "list", "--json").document
    assert store["utterances"] == 24
    assert store["size_bytes"] > 0
    assert run("cache", "clear", "--tokenizer", "another", "--json").document["stores"] == 0
    assert run("cache", "clear", "--json").document["stores"] == 1
    assert sum(found["utterances"] for found in run("cache", "--json").document) == 0


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_is_plain_lines_where_nobody_watches(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path, quiet: bool
) -> None:
    ran = run("encode", clips, "--lm", toy, "--out", tmp_path / "u.jsonl", *(["--quiet"] if quiet else []))
    assert ran.code == 0
    assert ("encoding 24/24" in ran.err) is not quiet
    assert "\x1b" not in ran.err + ran.out
