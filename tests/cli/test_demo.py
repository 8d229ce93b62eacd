"""demo and lms verify: on the bundled clips, with a toy in place of the bundled spoken LM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cli.material import Run
from speechprompt.evaluation import plots
from speechprompt.experiments import demo
from speechprompt.speech.manifest import Corpus


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A sixth of the corpus, and few steps."""
    whole = demo.demo_corpus()
    some = tuple(u for number, u in enumerate(whole.utterances) if number % 6 == 0)
    corpus = replace(whole, utterances=some)
    monkeypatch.setattr(demo, "demo_corpus", lambda: corpus)
    monkeypatch.setattr(demo, "FAST_STEPS", 3)
    return corpus


def test_the_bundled_corpus_is_whole_and_split_by_voice() -> None:
    corpus = demo.demo_corpus()
    assert corpus.splits().keys() == {"train", "valid", "test"}
    assert all(utterance.audio is not None and utterance.audio.is_file() for utterance in corpus.utterances)
    speakers = [{u.speaker for u in corpus.split(split)} for split in corpus.splits()]
    assert sum(map(len, speakers)) == len(set.union(*speakers))


def test_demo_ends_in_a_report(
    run: Run, toy: Path, toy_tokenizer: None, small: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    command = ("demo", "--fast", "--lm", toy, "--out", out, "--quiet")
    ran = run(*command, "--json")
    assert (ran.code, ran.err) == (0, "")
    document = ran.document
    assert {Path(prompt).name for prompt in document["prompts"]} == set(small.slots)
    assert len(document["predictions"]) == demo.PREDICTED_CLIPS
    for evaluation in document["prompts"].values():
        assert [b["name"] for b in evaluation["baselines"]] == ["majority", "n-gram", "probe"]
    page = (out / "report.html").read_text()
    assert all(slot in page for slot in small.slots)
    assert "data:audio/flac" in page
    assert run(*command).code == 1
    # drawings take longer than everything else, and those of the first page were looked at
    monkeypatch.setattr(plots, "render_svg", lambda *drawing: "<svg></svg>")
    ran = run(*command, "--force")
    assert ran.code == 0
    assert "next" in ran.out
    assert run("show", out / "prompts" / "command", "--json").document["metrics"]["test"]


def test_demo_replaces_only_a_demo(run: Run, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    ran = run("demo", "--lm", toy, "--out", tmp_path, "--force", "--quiet")
    assert ran.code == 1
    assert (tmp_path / "thesis.txt").is_file()


def test_verify_measures_and_fails_a_random_lm(
    run: Run, toy: Path, toy_tokenizer: None, small: Corpus
) -> None:
    ran = run("lms", "verify", toy, "--json", "--quiet")
    assert ran.code == 1
    assert "no better than a uniform guess" in ran.error
    assert ran.document["clips"] == 24
    assert ran.document["bits_per_unit"] > ran.document["uniform_bits"] == pytest.approx(4.322)
