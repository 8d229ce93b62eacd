"""The examples run as they stand."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from speechprompt.experiments import demo

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_quickstart_script(capsys: pytest.CaptureFixture[str]) -> None:
    """A short training already beats chance on voices it never heard."""
    module = runpy.run_path(str(EXAMPLES / "quickstart.py"))
    accuracy = module["main"](steps=60)
    assert accuracy > 0.25
    assert "test accuracy" in capsys.readouterr().out


def test_quickstart_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell of the notebook runs, on a sixth of the corpus."""
    whole = demo.demo_corpus()
    few = replace(whole, utterances=whole.utterances[::6])
    monkeypatch.setattr(demo, "demo_corpus", lambda: few)
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    scope: dict[str, object] = {}
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for source in cells:
        exec(compile(source, "quickstart.ipynb", "exec"), scope)
    assert len(cells) == 5
    assert scope["prediction"]
