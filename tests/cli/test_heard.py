"""Clips that a prompt has heard are told when it is scored on them, whatever they are called now."""

from __future__ import annotations

from pathlib import Path

from cli.material import Run
from speechprompt.speech.manifest import Corpus

KNOWN = "scored utterances are ones that the prompt trained on"


def test_the_same_clips_under_other_ids_are_counted(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, pitch: Path, tmp_path: Path
) -> None:
    folder, table = Corpus.read(clips), tmp_path / "list.csv"
    files = {u.audio: u for u in folder.utterances}
    lines = [f"{audio},{next(iter(u.labels.values()))}" for audio, u in files.items()]
    slot = next(iter(folder.slots))
    table.write_text("\n".join([f"audio,{slot}", *lines]) + "\n")
    scored = Corpus.read(table).split("test")
    heard = [u for u in scored if u.audio is not None and files[u.audio].split in ("train", "valid")]
    assert heard
    for command in (("evaluate", pitch, table), ("report", pitch, table, "--out", tmp_path / "page.html")):
        assert f"{len(heard)} of {len(scored)} {KNOWN}" in run(*command, "--lm", toy).err


def test_the_source_that_it_trained_on_has_none(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, pitch: Path
) -> None:
    assert KNOWN not in run("evaluate", pitch, clips, "--lm", toy).err
    assert f"{len(Corpus.read(clips).split('train'))} of" in (
        run("evaluate", pitch, clips, "--lm", toy, "--split", "train").err
    )
