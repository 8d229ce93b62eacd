"""Every corpus on a miniature of its official layout: splits, labels, speakers, and what must not change."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus_trees as trees
import pytest

from speechprompt.corpora import check, corpus_names, list_corpora, prepare

Build = Callable[[Path], None]

# name, tree, options, rows per split, labels of one slot in order
CASES: list[tuple[str, Build, dict[str, Any], dict[str, int], tuple[str, list[str]]]] = [
    (
        "google-speech-commands-v1:command",
        trees.google_speech_commands,
        {"variant": "words", "split_rule": "speaker-hash"},
        {"train": 81, "valid": 30, "test": 9},
        ("command", ["yes", "no", "bed"]),
    ),
    (
        "grabo",
        trees.grabo,
        {},
        {"train": 12, "valid": 24, "test": 24},
        ("command", ["recording1", "recording2", "recording3"]),
    ),
    (
        "lithuanian-speech-commands",
        trees.lithuanian,
        {},
        {"train": 13, "valid": 12, "test": 12},
        ("command", ["ačiū", "unknown", "silence"]),
    ),
    (
        "arabic-speech-commands",
        trees.arabic,
        {},
        {"train": 14, "valid": 2, "test": 4},
        ("command", ["0", "7", "A", "B"]),
    ),
    (
        "dysarthric-mandarin",
        trees.dysarthric_mandarin,
        {},
        {"train": 47, "valid": 16, "test": 27},
        ("command", ["01", "02", "12"]),
    ),
    (
        "dysarthric-mandarin",
        trees.dysarthric_mandarin,
        {"variant": "nineteen"},
        {"train": 67, "valid": 17, "test": 36},
        ("command", ["01", "02", "10", "12"]),
    ),
    (
        "fluent-speech-commands",
        trees.fluent,
        {},
        {"train": 3, "valid": 3, "test": 3},
        ("object", ["none", "lights", "shoes"]),
    ),
    (
        "voxforge",
        trees.voxforge,
        {},
        {"train": 96, "valid": 24, "test": 24},
        ("language", ["de", "en", "es", "fr", "it", "ru"]),
    ),
    (
        "asvspoof2019-la",
        trees.asvspoof,
        {},
        {"train": 3, "valid": 3, "test": 3},
        ("spoof", ["bonafide", "spoof"]),
    ),
    (
        "iemocap",
        trees.iemocap,
        {},
        {"train": 16, "valid": 4, "test": 5},
        ("emotion", ["neu", "hap", "ang", "sad"]),
    ),
    (
        "iemocap",
        trees.iemocap,
        {"split_rule": "folds"},
        {f"fold{n}": 5 for n in range(1, 6)},
        ("gender", ["F", "M"]),
    ),
    ("easycall", trees.easycall, {}, {"train": 34, "valid": 4, "test": 4}, ("dysarthria", ["0", "1", "3"])),
    (
        "accentdb",
        trees.accentdb,
        {},
        {"train": 19, "valid": 5, "test": 6},
        ("accent", ["american", "bangla", "welsh"]),
    ),
    (
        "mustard",
        trees.mustard,
        {},
        {"train": 15, "valid": 1, "test": 4},
        ("sarcasm", ["not_sarcastic", "sarcastic"]),
    ),
    (
        "mustard",
        trees.mustard,
        {"split_rule": "speaker-independent"},
        {"train": 8, "test": 12},
        ("sarcasm", ["not_sarcastic", "sarcastic"]),
    ),
    (
        "mustard-plus-plus",
        trees.mustard_plus_plus,
        {},
        {"train": 16, "valid": 2, "test": 2},
        ("implicit_emotion", ["anger"]),
    ),
    ("voxceleb1", trees.voxceleb1, {}, {"train": 5, "valid": 5, "test": 5}, ("gender", ["F", "M"])),
    (
        "voxceleb1:speaker",
        trees.voxceleb1,
        {},
        {"train": 5, "valid": 5, "test": 5},
        ("speaker", ["id10001", "id10002", "id10003", "id10270", "id10271"]),
    ),
    (
        "speech-commands-freesound-vad",
        trees.vad,
        {},
        {"train": 6, "valid": 6, "test": 6},
        ("voice_activity", ["background", "speech"]),
    ),
    (
        "speech-commands-freesound-vad",
        trees.vad,
        {"split_rule": "seeded"},
        {"train": 35, "valid": 9, "test": 4},
        ("voice_activity", ["background", "speech"]),
    ),
    ("esc-50", trees.esc_50, {}, {"train": 9, "valid": 3, "test": 3}, ("sound", ["dog", "cow", "chainsaw"])),
    ("esc-10", trees.esc_50, {}, {f"fold{n}": 2 for n in range(1, 6)}, ("sound", ["dog", "chainsaw"])),
    ("fsdd", trees.fsdd, {}, {"train": 60, "test": 60}, ("digit", list("0123456789"))),
    ("audiomnist", trees.audiomnist, {}, {"train": 60, "valid": 20, "test": 20}, ("gender", ["F", "M"])),
    (
        "ravdess",
        trees.ravdess,
        {},
        {"train": 128, "valid": 32, "test": 32},
        ("emotion", ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]),
    ),
    (
        "ravdess",
        trees.ravdess,
        {"variant": "4"},
        {"train": 64, "valid": 16, "test": 16},
        ("emotion", ["neutral", "happy", "sad", "angry"]),
    ),
    (
        "emodb",
        trees.emodb,
        {},
        {"train": 42, "valid": 14, "test": 14},
        ("emotion", ["anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral"]),
    ),
    (
        "emodb",
        trees.emodb,
        {"split_rule": "folds"},
        {f"fold{n}": 14 for n in range(1, 6)},
        ("gender", ["F", "M"]),
    ),
    (
        "crema-d",
        trees.crema_d,
        {},
        {"train": 48, "valid": 12, "test": 12},
        ("emotion", ["neutral", "happy", "sad", "angry", "fearful", "disgust"]),
    ),
    (
        "common-voice",
        trees.common_voice,
        {},
        {"train": 6, "valid": 6, "test": 6},
        ("language", ["en", "ga-IE"]),
    ),
    (
        "common-voice:accent",
        trees.common_voice,
        {},
        {"train": 4, "valid": 4, "test": 4},
        ("accent", ["England English"]),
    ),
    (
        "common-voice:gender",
        trees.common_voice,
        {"split_rule": "validated"},
        {"train": 10, "valid": 2},
        ("gender", ["F", "M"]),
    ),
    (
        "vctk:accent",
        trees.vctk,
        {},
        {"train": 30, "valid": 10, "test": 10},
        ("accent", ["English", "Scottish", "Welsh"]),
    ),
    (
        "vctk:speaker",
        trees.vctk,
        {},
        {"train": 40, "valid": 2, "test": 9},
        ("speaker", [*(f"p{n}" for n in range(225, 235)), "s5"]),
    ),
]


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    header, *rows = map(json.loads, content.decode("utf-8").splitlines())
    return header, rows


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize(
    ("name", "build", "options", "splits", "slot"),
    CASES,
    ids=[f"{case[0]}-{i}" for i, case in enumerate(CASES)],
)
def test_official_layout(tmp_path, name, build, options, splits, slot) -> None:
    root, out = tmp_path / "a corpus (1)", tmp_path / "out" / "manifest.jsonl"
    root.mkdir()
    build(root)
    trees.litter(root)
    before = snapshot(root)
    prepared = prepare(name, root, out, **options)
    header, rows = read(out)
    assert Counter(row["split"] for row in rows) == splits == prepared.splits
    assert list(prepared.splits) == list(splits)
    assert header["slots"][slot[0]] == slot[1]
    assert header["manifest"] == 1
    assert header["split_rule"].startswith(prepared.split_rule)
    assert len({row["id"] for row in rows}) == len(rows) == prepared.rows
    assert all((out.parent / row["audio"]).is_file() for row in rows)
    for row in rows:
        assert all(row["labels"][name] in header["slots"][name] for name in row["labels"])
    assert snapshot(root) == before
    first = out.read_bytes()
    prepare(name, root, out, force=True, **options)
    assert out.read_bytes() == first
    trees.retyped(root)
    prepare(name, root, out, force=True, **options)
    assert out.read_bytes() == first


def test_every_corpus_has_a_miniature_and_a_full_description() -> None:
    tested = {case[0].partition(":")[0] for case in CASES} | {"google-speech-commands-v2"}
    assert tested == set(corpus_names())
    for description in list_corpora():
        assert description.name in corpus_names()
        assert set(description.slots) == {slot for slots in description.tasks.values() for slot in slots}
        assert all((description.title, description.url, description.licence, description.citation))
        assert description.languages or description.name.startswith("esc-")
        assert set(description.default_rules.values()) <= set(description.split_rules)


@pytest.mark.parametrize("version", ["1", "2"])
def test_speech_commands_draws_silence_and_takes_the_official_test_archive(tmp_path, version) -> None:
    root, name = tmp_path / "root", f"google-speech-commands-v{version}"
    trees.google_speech_commands(root, f"v0.0{version}")
    out = tmp_path / "m.jsonl"
    prepare(name, root, out, split_rule="paper")
    header, rows = read(out)
    assert header["slots"]["command"][-2:] == ["_unknown_", "_silence_"]
    assert sum(row["split"] == "test" for row in rows) == 12
    silence = [row for row in rows if row["labels"]["command"] == "_silence_" and row["split"] != "test"]
    assert Counter(row["split"] for row in silence) == {"train": 5, "valid": 2}
    for row in silence:
        length = 3.0 if "white" in row["audio"] else 2.0
        assert row["end_seconds"] == pytest.approx(row["start_seconds"] + 1)
        assert row["end_seconds"] <= length
    assert {row["word"] for row in rows if row["labels"]["command"] == "_unknown_" and "word" in row} == {
        "bed"
    }
    inner = prepare(name, root / f"speech_commands_v0.0{version}", tmp_path / "n.jsonl", split_rule="paper")
    assert inner.rows == len(rows)
    prepare(name, root, tmp_path / "o.jsonl", split_rule="paper", seed=7)
    assert (tmp_path / "o.jsonl").read_bytes() != out.read_bytes()


def test_check_compares_with_what_is_published(tmp_path) -> None:
    trees.esc_50(tmp_path)
    (tmp_path / "ESC-50-master/audio/2-1003-A-3.wav").unlink()
    report = check("esc-50", tmp_path)
    assert report.splits == {"train": 8, "valid": 3, "test": 3}
    assert not report.complete
    assert report.skipped == 1
    assert report.skipped_files == ("audio/2-1003-A-3.wav",)
    assert "14 of 2000 utterances" in report.differences
    assert "sound dog: 5 of 40 utterances" in report.differences


def test_needs_the_standard_library_only_and_gives_the_same_bytes_in_every_process(tmp_path) -> None:
    trees.voxceleb1(tmp_path / "root")
    program = """if True:
        import sys
        from speechprompt.corpora import list_corpora, prepare
        list_corpora()
        prepare("voxceleb1", sys.argv[1], sys.argv[2], split_rule="speaker-disjoint")
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "numpy", "sklearn"}))
    """
    written = []
    for seed in ("1", "2"):
        arguments = [
            sys.executable,
            "-c",
            program,
            str(tmp_path / "root"),
            str(tmp_path / f"{seed}.jsonl.gz"),
        ]
        done = subprocess.run(
            arguments, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"
        written.append((tmp_path / f"{seed}.jsonl.gz").read_bytes())
    assert written[0] == written[1]


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "folder", "list_name", "splits"),
    [
        (
            "arabic-speech-commands",
            "arabic_speech_commands",
            True,
            {"train": 1_107, "valid": 123, "test": 370},
        ),
        (
            "lithuanian-speech-commands",
            "lithuanian_speech_commands",
            True,
            {"train": 598, "valid": 85, "test": 98},
        ),
        ("fsdd", "fsdd", False, {"train": 1_200, "test": 300}),
        ("esc-10", "esc10", True, {f"fold{number}": 80 for number in range(1, 6)}),
        ("google-speech-commands-v1", "speech_commands_3", False, {"train": 360, "valid": 120, "test": 120}),
        ("ravdess", "ravdess4", False, {"train": 256, "valid": 64, "test": 64}),
    ],
)
def test_real_names_give_the_published_counts_and_labels(
    tmp_path, shared, name, folder, list_name, splits
) -> None:
    """The official paths of the real clips (their audio is not needed), against the labels that came with them."""
    with tarfile.open(shared / "data/audio" / f"{folder}.tar") as archive:
        lines = archive.extractfile(f"{folder}/manifest.jsonl").read().decode().splitlines()[1:]
    expected = [json.loads(line) for line in lines]
    for row in expected:
        trees.wav((tmp_path / "root" / row["original_path"]).with_suffix(".wav"))
    split_list = shared / "data/splits" / f"{folder}.csv" if list_name else None
    prepared = prepare(name, tmp_path / "root", tmp_path / "m.jsonl", split_list=split_list)
    assert prepared.splits == splits
    found = {
        Path(row["audio"]).stem + Path(row["audio"]).parent.name: row for row in read(tmp_path / "m.jsonl")[1]
    }
    for row in expected:
        original = Path(row["original_path"])
        here = found[original.stem + original.parent.name]
        assert here["split"] == row["split"]
        assert row["labels"].items() <= here["labels"].items()
        assert here.get("speaker") == row.get("speaker")
