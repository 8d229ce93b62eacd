"""compare and reproduce from the command line: toy LM, miniature official folders, every form of the result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cli.material import Run, write_tone
from corpora import corpus_trees as trees
from speechprompt.experiments import reproduce as study
from speechprompt.prompting.training import train_runs

ARABIC, DIGITS, SPOOF = "arabic-speech-commands:command", "fsdd:digit", "asvspoof2019-la:spoof"
FEW = ("--steps", "2", "--quiet")


class Page(HTMLParser):
    """Counts what opens and closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self.open.pop()


def sound(root: Path, seconds: float = 0.2) -> None:
    """Replace the silent clips of a miniature by tones whose pitch the file name's first letter decides."""
    clips = (path for path in sorted(root.rglob("*")) if path.suffix.lower() in (".wav", ".flac"))
    for number, path in enumerate(clips):
        write_tone(path, 200.0 + 90 * (ord(path.name[0]) % 20), number, seconds)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says where three miniatures are."""
    base = tmp_path_factory.mktemp("corpora")
    for build, name in ((trees.arabic, "arabic"), (trees.fsdd, "fsdd"), (trees.asvspoof, "asvspoof")):
        build(base / name)
        sound(base / name)
    lists = base / "arabic" / "AR_ SpeechCommands_Database"
    takes = {"train_full": (1, 2, 3), "dev_full": (4,), "test_full": (5,)}
    for part, numbers in takes.items():
        names = [f"commands/{letter}_Word{take}.wav\t{letter}" for letter in "AB" for take in numbers]
        names += [f"numbers/{digit}_{take}.WAV\t{digit}" for digit in "07" for take in numbers]
        (lists / f"{part}.csv").write_text("filename\tlabel\n" + "\n".join(f"/x/{name}" for name in names))
    text = f"""arabic-speech-commands = "arabic"
        fsdd = "{base / "fsdd"}"
        voxforge = "nowhere"
        [asvspoof2019-la]
        root = "asvspoof"
        split_rule = "paper"
        """
    (base / "roots.toml").write_text(text)
    return base / "roots.toml"


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the runs of every training that was started."""
    started: list[list[str]] = []

    def noted(lm: Any, runs: Any, *rest: Any) -> None:
        started.append([run.name for run in runs])
        train_runs(lm, runs, *rest)

    monkeypatch.setattr(study, "train_runs", noted)
    return started


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, whose plots take longer than everything else here."""
    monkeypatch.setattr(study, "write_report", lambda *arguments, **options: None)


@pytest.fixture
def reproduce(run: Run, toy: Path, toy_tokenizer: None, roots: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run `reproduce` into one folder, on the miniatures."""

    def call(*arguments: object) -> Any:
        where = ("--roots", roots, "--lm", toy, "--out", tmp_path / "table")
        return run("reproduce", *where, *FEW, *arguments)

    return call


def test_reproduce_prints_the_table_and_trains_nothing_twice(
    reproduce: Callable[..., Any], trainings: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as first:  # the page is the second call's
        first.setattr(study, "write_report", lambda *arguments, **options: None)
        ran = reproduce(ARABIC, "grabo:command", "voxforge:language", "--seeds", "2", "--json")
    assert (ran.code, ran.err) == (0, "")
    done, grabo, voxforge = ran.document["rows"]
    assert (done["state"], done["utterances"], done["labels"]) == ("done", 4, [4])
    assert done["paper"]["GSLM+"] == 1.0
    assert done["ours"]["low"] <= done["ours"]["estimate"] <= done["ours"]["high"]
    assert done["difference"]["estimate"] == pytest.approx(
        done["ours"]["estimate"] - done["ngram"]["estimate"]
    )
    assert grabo["state"] == voxforge["state"] == "absent"
    assert "esat.kuleuven.be" in grabo["remark"]
    assert "nowhere is not there" in voxforge["remark"]
    assert trainings == [[f"{ARABIC} seed 0"], [f"{ARABIC} seed 1"]]
    for prompt in done["prompts"]:
        assert (tmp_path / "table" / prompt / "prompt.safetensors").is_file()
        section = json.loads((tmp_path / "table" / prompt / "section.json").read_text())
        assert all(point["train_loss"] > 0 for point in section["learning"])
        assert section["seconds"] > 0
    again = reproduce(ARABIC, "grabo:command", "voxforge:language", "--seeds", "3", "--json")
    assert trainings[2:] == [[f"{ARABIC} seed 2"]]
    assert again.document["rows"][0]["ngram"] == done["ngram"]
    check_files(tmp_path / "table", again.document)


def check_files(folder: Path, document: Any) -> None:
    """Table and report say what was printed."""
    assert json.loads((folder / "table.json").read_text()) == document
    lines = (folder / "table.md").read_text().splitlines()
    assert len(lines) == 2 + len(document["rows"])
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    page = (folder / "report.html").read_text()
    assert Page(page).open == []
    assert ARABIC in page
    assert "Published accuracy in percent: GSLM 99.7" in page
    assert "nowhere is not there" in page
    for heading in ("paper GSLM+", "ours % [95 %]", "n-gram % [95 %]"):
        assert f">{heading}</th>" in page


@pytest.mark.usefixtures("no_page")
def test_an_interrupted_reproduction_goes_on(
    reproduce: Callable[..., Any],
    trainings: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    noted = study.train_runs

    def stops(lm: Any, runs: Any, *rest: Any) -> None:
        if "digit" in runs[0].name:
            raise KeyboardInterrupt
        noted(lm, runs, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(study, "train_runs", stops)
        ran = reproduce(ARABIC, DIGITS)
    assert ran.code == 130
    assert f"finished runs are in {tmp_path / 'table'}" in ran.err
    assert reproduce(ARABIC, DIGITS).code == 0
    assert trainings == [[f"{ARABIC} seed 0"], [f"{DIGITS} seed 0"]]


@pytest.mark.usefixtures("no_page")
def test_other_options_train_again(
    reproduce: Callable[..., Any], trainings: list[list[str]], roots: Path
) -> None:
    assert reproduce(ARABIC).code == 0
    assert reproduce(ARABIC, "--steps", "3").code == 0
    assert trainings == [[f"{ARABIC} seed 0"]] * 2


@pytest.mark.usefixtures("no_page")
def test_joint_rows_train_in_one_run_and_spoofs_are_scored_by_their_error_rate(
    reproduce: Callable[..., Any], trainings: list[list[str]]
) -> None:
    ran = reproduce(ARABIC, SPOOF, "--joint", "--json")
    assert ran.code == 0
    assert trainings == [[f"{ARABIC} seed 0", f"{SPOOF} seed 0"]]
    spoof = ran.document["rows"][1]
    assert (spoof["metric"], spoof["paper"]["prior"], spoof["difference"]) == ("EER", 0.025, None)
    assert 0 <= spoof["ours"]["estimate"] <= 1


@pytest.mark.usefixtures("no_page")
def test_a_broken_corpus_does_not_stop_the_others(
    run: Run, toy: Path, toy_tokenizer: None, roots: Path, tmp_path: Path
) -> None:
    trees.arabic(tmp_path / "arabic")  # its lists leave a test label untrained
    text = f'arabic-speech-commands = "{tmp_path / "arabic"}"\nfsdd = "{roots.parent / "fsdd"}"\n'
    (tmp_path / "roots.toml").write_text(text)
    where = ("--roots", tmp_path / "roots.toml", "--lm", toy, "--out", tmp_path / "table")
    ran = run("reproduce", ARABIC, DIGITS, *where, *FEW, "--json")
    assert ran.code == 1
    assert "which no training utterance has" in ran.error
    assert [row["state"] for row in ran.document["rows"]] == ["failed", "done"]
    assert ran.document["rows"][1]["paper"] is None


def test_without_corpora_the_table_says_what_is_published(run: Run, toy: Path, tmp_path: Path) -> None:
    ran = run("reproduce", "--lm", toy, "--out", tmp_path / "table", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("no folder for") == 17
    assert (tmp_path / "table" / "report.html").read_text().count("no folder for") == 17


def test_unknown_rows_get_a_suggestion(run: Run, tmp_path: Path) -> None:
    ran = run("reproduce", "arabic-speech-command", "--out", tmp_path / "table", "--quiet")
    assert ran.code == 2
    assert f"did you mean {ARABIC}" in ran.error
    assert not (tmp_path / "table").exists()


def test_compare_prints_and_writes_every_form(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    command = ("compare", units, "--lm", toy, "--slots", "word", *FEW)
    ran = run(*command, "--methods", "finetune,n-gram", "--out", tmp_path / "a.json", "--json")
    assert (ran.code, ran.err) == (0, "")
    names = [method["name"] for method in ran.document["methods"]]
    assert names == ["prompt", "n-gram", "finetune"]
    assert json.loads((tmp_path / "a.json").read_text())["methods"][0] == ran.document["methods"][0]
    assert run(*command, "--methods", "n-gram", "--out", tmp_path / "a.json").code == 1
    for form in ("html", "md"):
        assert run(*command, "--methods", "n-gram", "--out", tmp_path / f"a.{form}").code == 0
    page = (tmp_path / "a.html").read_text()
    assert Page(page).open == []
    for heading in ("trained parameters", "seconds", "McNemar p"):
        assert f">{heading}</th>" in page
    assert (tmp_path / "a.md").read_text().count("\n| ") == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--methods", "lorra"), "did you mean lora?"),
        (("--out", "table.pdf"), "end its name in .html, .md, .json"),
    ],
)
def test_compare_refuses_before_any_work(run: Run, tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    ran = run("compare", tmp_path / "absent", *flags, "--quiet")
    assert ran.code == 2
    assert said in ran.error
