"""Clips that a prompt has heard are told when it is scored on them, whatever they are called now."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.material import Run
from speechprompt.prompting import heard
from speechprompt.prompting.heard import count_heard, heard_in
from speechprompt.speech.manifest import Corpus
from speechprompt.testing import toy_corpus

KNOWN = "scored utterances are ones that the prompt trained on"


def test_the_same_clips_under_other_ids_are_counted(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, pitch: Path, tmp_path: Path
) -> None:
    folder, table = Corpus.read(clips), tmp_path / "list.csv"
    slot, unheard = next(iter(folder.slots)), {u.id for u in folder.split("test")}
    training = {u.id for u in folder.split("train")[::2]}  # the other half is scored, as are valid and test
    scored = [u.id for u in folder.utterances if u.id not in training]
    lines = [
        f"{u.audio},{u.labels[slot]},{'train' if u.id in training else 'test'}" for u in folder.utterances
    ]
    table.write_text("\n".join([f"audio,{slot},split", *lines]) + "\n")
    known = [name for name in scored if name not in unheard]
    assert 0 < len(known) < len(scored)
    for command in (("evaluate", pitch, table), ("report", pitch, table, "--out", tmp_path / "page.html")):
        assert f"{len(known)} of {len(scored)} {KNOWN}" in run(*command, "--lm", toy).err


def test_the_source_that_it_trained_on_has_none(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, pitch: Path
) -> None:
    assert KNOWN not in run("evaluate", pitch, clips, "--lm", toy).err
    assert f"{len(Corpus.read(clips).split('train'))} of" in (
        run("evaluate", pitch, clips, "--lm", toy, "--split", "train").err
    )


def test_of_a_large_corpus_a_part_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = toy_corpus(60).utterances
    whole = heard_in(rows)
    assert count_heard(whole, rows) == 60
    monkeypatch.setattr(heard, "MOST_HEARD", 20)
    part = heard_in(rows)
    assert part.tolist() == whole.tolist()[:20]
    assert count_heard(part, rows) == 20
    assert count_heard(None, rows) == 0
