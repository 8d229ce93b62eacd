"""bench from the command line: every stage at small sizes, as a table, as JSON and as files."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.material import Run
from speechprompt.benchmarking import peft_form, server_process
from speechprompt.benchmarking.suite import STAGES

ONCE = ("--quick", "--repeats", "1", "--threads", "1", "--device", "cpu", "--quiet")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_every_stage(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "speed"
    ran = run("bench", *ONCE, "--out", out, "--json")
    assert (ran.code, ran.err) == (0, "")
    document: dict[str, Any] = json.loads(ran.out)
    found = [*document["rows"], *document["figures"], *document["curves"]]
    assert {one["stage"] for one in found} == set(STAGES)
    assert document["machine"]["seconds"] == "CPU seconds"
    for row in document["rows"]:
        assert all(value > 0 for value in row["per_second"].values()), row
        if row["operations"]:
            # products take what they take; whether ours beats them says nothing at these sizes
            assert row["operations_per_second"] > 1e7
    with_both = [row for row in document["rows"] if {"naive", "peft", "bound"} <= row["per_second"].keys()]
    assert {row["stage"] for row in with_both} == {"train", "predict", "tiny"}
    encoded = next(one for one in document["figures"] if "encoded" in one["figure"])
    assert encoded["value"] == 1
    assert document["left_out"] == {}
    served = [row for row in document["rows"] if row["stage"] == "server"]
    assert [row["per_second"].keys() for row in served] == [{"ours", "bound"}, {"ours", "bound", "naive"}]
    assert json.loads((out / "report.json").read_text()) == document
    check_report(out)
    again = run("bench", *ONCE, "--stages", "deduplicate", "--out", out)
    assert again.code == 1
    assert "already exists" in again.err


def check_report(out: Path) -> None:
    text = (out / "report.md").read_text()
    plots = sorted(path.name for path in out.glob("*.svg"))
    assert "bound.svg" in plots
    for name in plots:
        assert f"]({name})" in text
        root = ET.parse(out / name).getroot()
        assert float(root.attrib["width"]) > 100
        assert "--accent:" in "".join(root.itertext())


def test_a_table_of_chosen_stages_says_where_peft_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peft_form, "is_installed", lambda: False)
    ran = run("bench", *ONCE, "--stages", "train,kmeans")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert sum(line.startswith("k-means") for line in lines) == 1
    trained = [
        line for line in lines if line.startswith("train") and "batch 4" in line and "at least" not in line
    ]
    assert len(trained) == 3
    assert all("not installed" in line for line in trained)


def test_the_server_is_left_out_without_its_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "missing_package", lambda: "uvicorn")
    hint = "the stage server needs uvicorn; in the clone of speechprompt: pip install -e '.[server]'"
    ran = run("bench", *ONCE, "--stages", "server,deduplicate")
    assert (ran.code, ran.err) == (0, "")
    assert f"left out: {hint}" in ran.out.splitlines()
    assert not any(line.startswith("server") for line in ran.out.splitlines())
    document = run("bench", *ONCE, "--stages", "server,deduplicate", "--json").document
    assert document["left_out"] == {"server": hint}
    alone = run("bench", *ONCE, "--stages", "server")
    assert (alone.code, alone.error) == (1, f"error: {hint}")


def test_a_stage_that_does_not_exist(run: Run) -> None:
    ran = run("bench", *ONCE, "--stages", "hubbert")
    assert ran.code == 2
    assert "did you mean hubert?" in ran.err
