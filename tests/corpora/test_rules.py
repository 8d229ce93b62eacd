"""Split rules and published lists: what each promises."""

from __future__ import annotations

import corpus_trees as trees
import pytest
from test_corpora import CASES, read

from speechprompt.corpora import check, describe, prepare
from speechprompt.errors import CorpusError

DISJOINT = [
    (name, build)
    for name, build in {case[0].partition(":")[0]: case[1] for case in CASES}.items()
    if "speaker-disjoint" in describe(name).split_rules
]


@pytest.mark.parametrize(("name", "build"), DISJOINT, ids=[name for name, _ in DISJOINT])
def test_speaker_disjoint_rules_are(tmp_path, name, build) -> None:
    build(tmp_path / "root")
    prepare(name, tmp_path / "root", tmp_path / "m.jsonl", split_rule="speaker-disjoint")
    splits: dict[str, set[str]] = {}
    for row in read(tmp_path / "m.jsonl")[1]:
        splits.setdefault(row["speaker"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert len(set.union(*splits.values())) > 1


def test_grabo_takes_recordings_in_the_order_of_their_numbers(tmp_path) -> None:
    trees.grabo(tmp_path / "root")
    prepare("grabo", tmp_path / "root", tmp_path / "m.jsonl")
    rows = [row for row in read(tmp_path / "m.jsonl")[1] if "pp2/spchdatadir/recording1/" in row["audio"]]
    takes = [(row["audio"].rpartition("_")[2].removesuffix(".wav"), row["split"]) for row in rows]
    assert takes[:3] == [("1", "train"), ("2", "train"), ("3", "valid")]
    assert takes[-1] == ("10", "test")


def test_lists_in_the_other_form_and_their_order(tmp_path) -> None:
    trees.arabic(tmp_path / "root")
    base = "AR_ SpeechCommands_Database/"
    lines = ["original_path,label,split", f"{base}Words/B_Word3.wav,B,test", f"{base}Numbers/0_1.wav,0,train"]
    (tmp_path / "list.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    prepared = prepare(
        "arabic-speech-commands", tmp_path / "root", tmp_path / "m.jsonl.gz", split_list=tmp_path / "list.csv"
    )
    rows = read(tmp_path / "m.jsonl.gz")[1]
    assert [(row["labels"]["command"], row["split"]) for row in rows] == [("B", "test"), ("0", "train")]
    assert any("18 files are in no split list" in notice for notice in prepared.notices)


def test_published_lists_by_any_of_their_names_or_their_folder(tmp_path) -> None:
    trees.dysarthric_mandarin(tmp_path / "root")
    lists = tmp_path / "elsewhere"
    (tmp_path / "root/DM-SCR").rename(lists)
    manifests = []
    for number, choice in enumerate((lists, lists / "test_full.csv")):
        prepare("dysarthric-mandarin", tmp_path / "root", tmp_path / f"{number}.jsonl", split_list=choice)
        manifests.append((tmp_path / f"{number}.jsonl").read_bytes())
    prepared = prepare("dysarthric-mandarin", tmp_path / "root", tmp_path / "seeded.jsonl")
    assert manifests[0] == manifests[1]
    assert prepared.split_rule == "seeded"
    assert "seeded" in prepared.notices[0]


@pytest.mark.parametrize("version", [1, 2])
def test_every_word_and_the_official_test_of_twelve_labels_do_not_go_together(tmp_path, version) -> None:
    trees.google_speech_commands(tmp_path / "root", f"v0.0{version}")
    name, out = f"google-speech-commands-v{version}", tmp_path / "m.jsonl"
    with pytest.raises(CorpusError, match="pass --split-rule speaker-hash"):
        prepare(name, tmp_path / "root", out, variant="words", split_rule="paper")
    assert not out.exists()
    prepare(name, tmp_path / "root", out, variant="words", split_rule="speaker-hash")


def test_a_check_says_whether_anything_is_published(tmp_path) -> None:
    trees.google_speech_commands(tmp_path, "v0.02")
    rules = {"speaker-hash": False, "paper": True}
    found = {rule: check("google-speech-commands-v2", tmp_path, split_rule=rule) for rule in rules}
    assert {rule: report.compared for rule, report in found.items()} == rules
    assert {rule: report.complete for rule, report in found.items()} == {"speaker-hash": True, "paper": False}
