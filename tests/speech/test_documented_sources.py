"""The sources that docs/clips.md shows are read as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.material import write_tone
from speechprompt import Corpus

PAGE = Path(__file__).parent.parent.parent / "docs" / "clips.md"
SHOWN = dict(re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
FILES = {"csv": "clips.csv", "nemo": "nemo.jsonl", "manifest": "manifest.jsonl"}


@pytest.mark.parametrize("form", FILES)
def test_a_source_of_the_page_is_read(form: str, tmp_path: Path) -> None:
    for name in "abcd":
        write_tone(tmp_path / f"{name}.wav", 400.0)
    source = tmp_path / FILES[form]
    source.write_text(SHOWN[form], encoding="utf-8")
    corpus = Corpus.read(source, slots=["command"])
    lines = SHOWN[form].splitlines()
    assert len(corpus.utterances) == len(lines) - (form != "nemo")
    assert set(corpus.slots) == {"command"}
    assert {u.labels["command"] for u in corpus.utterances} == {"yes", "no"}
    assert all(u.audio is not None and u.audio.is_file() for u in corpus.utterances)
    if form != "nemo":
        assert {u.split for u in corpus.utterances} == {"train", "valid", "test"}
        assert {u.speaker for u in corpus.utterances} == {"anna", "ben"}


def test_every_block_of_the_page_is_tried() -> None:
    assert set(SHOWN) == set(FILES)
