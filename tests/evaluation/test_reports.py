"""One file that holds everything, asks for nothing, and shows labels as text whatever they contain."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechprompt.errors import OutputExists, UsageError, WorkError
from speechprompt.evaluation import plots
from speechprompt.evaluation.baselines import BaselineResult, majority
from speechprompt.evaluation.clips import ClipPicture, peaks_of
from speechprompt.evaluation.page import duration, parameters, percent
from speechprompt.evaluation.reports import (
    BaselineScore,
    Example,
    LearningPoint,
    Report,
    ReportTable,
    StudyRow,
    TaskSection,
    embedded_clip,
    joined_labels,
    pick_examples,
    render_report,
    verbalizer_map,
    write_report,
)
from speechprompt.evaluation.summary import AnsweredUtterance, SlotAnswer, SpeakerEvaluation, summarise
from speechprompt.metrics import CalibrationBin, Interval

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{1}{0}$",
    "{{ 7 * 7 }} 命令",
)


def answered(labels: tuple[str, ...], count: int = 40) -> list[AnsweredUtterance]:
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        true, guess = number % len(labels), int(rng.integers(len(labels)))
        scores = np.full(len(labels), 0.3 / (len(labels) - 1))
        scores[guess] = 0.7
        answer = SlotAnswer(labels[true], labels[guess], tuple(scores.tolist()))
        rows.append(AnsweredUtterance(f"clip {number} of {labels[0]}", {"slot": answer}, f"s{number % 4}"))
    return rows


def pictured(example: Example) -> Example:
    picture = ClipPicture(
        units=("5", "17", HOSTILE[0]),
        edges=(0.0, 0.1, 0.34, 0.4),
        spans=((0, 1), (1, 3)),
        importance=(1.2, -0.4),
        label=HOSTILE[1],
        peaks=peaks_of(np.sin(np.arange(6400) / 9)),
        length=0.4,
        has_seconds=True,
    )
    audio = embedded_clip(np.zeros(160), 16000)
    return replace(example, audio=audio, excerpt=HOSTILE[0], picture=picture)


@cache
def report(labels: tuple[str, ...] = HOSTILE, title: str = "A & B <b>") -> Report:
    rows, slots = answered(labels), {"slot": labels}
    true = [joined_labels(row)[0] for row in rows]
    units = [str(unit) for unit in range(60)]
    section = TaskSection(
        name=labels[0],
        evaluation=summarise(rows, slots),
        trained_parameters=16_932,
        seconds=372.4,
        baselines=(BaselineScore.beside(majority(true, true, [row.speaker or "" for row in rows]), rows),),
        learning=(LearningPoint(10, 2.5), LearningPoint(20, 1.5, 0.4), LearningPoint(30, None, 0.5)),
        verbalizers={
            "slot": verbalizer_map(labels, units, np.random.default_rng(0).normal(size=(len(labels), 60)))
        },
        examples=tuple(pictured(example) for example in pick_examples(rows, slots)),
        notices=(labels[-1],),
    )
    return Report(title, (section,), {"command": labels[1]}, subtitle=labels[0])


@cache
def rendered() -> str:
    return render_report(report())


class Page(HTMLParser):
    """Collects tags, ids, and every attribute that could fetch or run something."""

    void = frozenset({"meta", "img", "path", "use", "rect", "link", "br"})

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "action", "data", "srcset", "poster"}:
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    handle_startendtag = handle_starttag


def test_hostile_labels_are_text_everywhere() -> None:
    page = Page(rendered())
    assert not {"script", "img", "link", "iframe", "b onerror"} & set(page.tags)
    assert not page.handlers
    document = rendered()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in document
    assert "<title>A &amp; B &lt;b&gt;</title>" in document
    assert "{{ 7 * 7 }}" in document
    assert "$\\frac" in document


def test_the_file_asks_for_nothing_outside_itself() -> None:
    document = rendered()
    page = Page(document)
    assert all(address.startswith(("#", "data:audio/")) for address in page.addresses)
    assert any(address.startswith("data:audio/flac") for address in page.addresses)
    assert "default-src 'none'" in document
    assert "@import" not in document
    urls = set(re.findall(r"https?://[^\"' <]+", document))
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert re.findall(r"url\((?!#)", document) == []


def test_ids_are_unique_and_every_reference_has_its_target() -> None:
    document = rendered()
    page = Page(document)
    assert len(page.ids) == len(set(page.ids))
    wanted = {a[1:] for a in page.addresses if a.startswith("#")} | set(
        re.findall(r"url\(#([^)]*)\)", document)
    )
    assert wanted <= set(page.ids)


def test_the_same_report_gives_the_same_bytes_and_survives_json() -> None:
    first = report()
    text = json.dumps(first.to_json(), allow_nan=False)
    back = Report.from_json(json.loads(text))
    assert back == first
    assert render_report(back) == rendered()
    with pytest.raises(WorkError, match="title"):
        Report.from_json({"sections": []})


def bare(title: str) -> Report:
    """A section without anything that may be missing."""
    labels = ("no", "yes")
    rows = answered(labels)
    return Report(title, (TaskSection("bare", summarise(rows, {"slot": labels}), trained_parameters=0),))


def test_a_bare_section_is_a_page() -> None:
    document = render_report(bare("bare"))
    assert "No baseline was run" in document
    assert "Answers to look at" not in document
    assert "Provenance" not in document


def test_a_table_shows_what_it_holds_and_may_stand_alone() -> None:
    rows = (("one:1", "12.5", "", HOSTILE[0]), ("two", "-3.0", "", ""))
    half = Interval(0.5, 0.4, 0.6)
    drawn = (StudyRow(HOSTILE[2], half, half, 0.7),)
    table = ReportTable(
        ("row", "points", "nothing", "words"), rows, ("", HOSTILE[1]), HOSTILE[1], drawn, HOSTILE[1]
    )
    document = render_report(Report("study", (), table=table))
    page = Page(document)
    assert {"table", "svg"} <= set(page.tags)
    assert not {"script", "img"} & set(page.tags)
    assert "nothing" not in document
    assert "\u22123.0" in document
    assert "&lt;script&gt;" in document
    back = Report.from_json(json.loads(json.dumps(Report("study", (), table=table).to_json())))
    assert render_report(back) == document


def test_speakers_are_drawn_lowest_first_and_many_are_cut() -> None:
    speakers = [SpeakerEvaluation(f"s{number:02d}", 10 + number, number / 50) for number in range(50)]
    svg = plots.speaker_plot(speakers)
    named = re.findall(r">(s\d\d)<", svg)
    assert named == [f"s{number:02d}" for number in range(plots.SPEAKER_COUNT)]
    rows = [replace(row, speaker=f"s{i}") for i, row in enumerate(answered(("a", "b"), 30))]
    section = TaskSection("many", summarise(rows, {"slot": ("a", "b")}), trained_parameters=0)
    assert "6 speakers with higher accuracy are not shown" in render_report(Report("many", (section,)))


def test_of_a_thousand_labels_those_with_most_mistakes_are_drawn() -> None:
    labels = tuple(f"id{number:05d}" for number in range(1000))
    scores = np.zeros(1000)
    rows = []
    for number in range(1100):
        true, guess = number % 1000, (number + (number % 10 == 7)) % 1000
        scores = np.full(1000, 1e-9)
        scores[guess] = 1 - 999e-9
        answer = SlotAnswer(labels[true], labels[guess], tuple(scores.tolist()))
        rows.append(AnsweredUtterance(str(number), {"slot": answer}))
    section = TaskSection(
        "speakers",
        summarise(rows, {"slot": labels}),
        trained_parameters=0,
        verbalizers={"slot": verbalizer_map(labels, ["0", "1"], np.ones((1000, 2)))},
    )
    document = render_report(Report("speakers", (section,)))
    assert "The 60 of 1,000 labels with most mistakes." in document
    assert "940 labels more are not shown" in document
    assert len(document) < 1_000_000
    assert {"id00007", "id00008"} <= set(re.findall(r"id\d{5}", document))


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_report(bare("first"), tmp_path / "new" / "report.html")
    before = path.read_text(encoding="utf-8")
    with pytest.raises(OutputExists):
        write_report(bare("second"), path)
    assert path.read_text(encoding="utf-8") == before
    with pytest.raises(UsageError):
        write_report(Report("empty", ()), path, force=True)
    assert path.read_text(encoding="utf-8") == before
    write_report(bare("second"), path, force=True)
    assert "<title>second</title>" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


@settings(max_examples=6, deadline=None)
@example(["\x1b\x00", "\ud800", "‮", " "])
@given(st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=6, unique=True))
def test_any_labels_make_well_formed_drawings(labels: list[str]) -> None:
    counts = np.arange(len(labels) ** 2).reshape(len(labels), len(labels))
    for svg in (
        plots.confusion_plot(labels, counts),
        plots.verbalizer_plot(labels, labels, counts - counts.mean()),
    ):
        ElementTree.fromstring(svg)


@pytest.mark.parametrize("size", [2, 8, 13, 50])
def test_drawings_of_many_sizes_name_colours_by_variable_only(size: int) -> None:
    labels = tuple(f"label {number}" for number in range(size))
    rows = answered(labels, 2 * size)
    slot = summarise(rows, {"slot": labels}).slots["slot"]
    for svg in (plots.confusion_plot(slot.labels, slot.confusion), plots.label_plot(slot.per_label)):
        check_colours(svg)


def test_drawings_of_one_size_name_colours_by_variable_only() -> None:
    half = Interval(0.5, 0.4, 0.6)
    for svg in (
        plots.reliability_plot([CalibrationBin(0.0, 0.1, 3, 0.05, 1.0)]),
        plots.accuracy_plot([("prompt", half)], []),
        plots.accuracy_plot([("prompt", half), ("n-gram", half)], [("n-gram", Interval(-0.1, -0.2, 0.0))]),
        plots.learning_plot([1], [None], [None]),
    ):
        check_colours(svg)


def check_colours(svg: str) -> None:
    ElementTree.fromstring(svg)
    styles = " ".join(re.findall(r'style="([^"]*)"', svg))
    assert not re.findall(r"#[0-9a-f]{6}", styles)
    assert "var(--" in styles
    assert "DejaVu" not in svg


def test_a_learning_curve_without_losses_is_one_panel() -> None:
    with_losses = plots.learning_plot([10, 20], [2.0, 1.0], [0.5, 0.6])
    without = plots.learning_plot([10, 20], [None, None], [0.5, 0.6])
    assert "training loss" in with_losses
    assert "training loss" not in without
    assert "accuracy on valid" in without


def test_a_label_that_looks_like_a_colour_stays_a_label() -> None:
    assert "#010203" in plots.confusion_plot(["#010203", "b"], [[1, 0], [0, 1]])


def test_examples_put_the_most_confident_mistakes_first() -> None:
    rows = answered(("a", "b"), 60)
    examples = pick_examples(rows, {"slot": ("a", "b")}, count=12)
    assert [e.is_right for e in examples] == [False] * 9 + [True] * 3
    assert {e.score for e in examples} == {0.7}
    right = [row for row in rows if row.is_right][:5]
    assert len(pick_examples(right, {"slot": ("a", "b")}, count=12)) == 5


def test_clips_must_be_inside_the_report() -> None:
    for address in ("https://example.org/a.wav", "javascript:alert(1)", "a.wav"):
        with pytest.raises(UsageError, match="embedded"):
            Example("u", "a", "b", 0.5, False, address)


def test_verbalizer_maps_keep_the_strongest_units_of_every_label() -> None:
    weights = np.zeros((3, 100))
    weights[0, 70], weights[1, 5], weights[2, 33] = 1, -9, 0.1
    kept = verbalizer_map("abc", [str(unit) for unit in range(100)], weights, limit=3)
    assert kept.units == ("5", "33", "70")
    assert kept.weights == ((0, 0, 1), (-9, 0, 0), (0, 0.1, 0))
    with pytest.raises(UsageError):
        verbalizer_map("ab", ["1"], weights)


def test_a_baseline_scored_on_other_utterances_is_refused() -> None:
    rows = answered(("a", "b"))
    half = Interval(0.5, 0.4, 0.6)
    for predictions in (("a",) * 3, ("a",) * 40):
        with pytest.raises(UsageError, match="not scored on these"):
            BaselineScore.beside(BaselineResult("x", 0.9, half, 0.5, predictions, 0, 0.0), rows)


def test_numbers_read_as_people_say_them() -> None:
    assert percent(0.9421) == "94.2\u202f%"
    assert [parameters(n) for n in (980, 16_932, 999_949, 999_950)] == [
        "980",
        "16.9\u202fk",
        "999.9\u202fk",
        "1.0\u202fM",
    ]
    assert [duration(s) for s in (None, 0.41, 59.4, 59.6, 7500)] == [
        "–",
        "0.4\u202fs",
        "59\u202fs",
        "1\u202fmin 0\u202fs",
        "2\u202fh 5\u202fmin",
    ]


def test_importing_reports_loads_no_torch_sklearn_or_matplotlib() -> None:
    code = (
        "import sys, speechprompt.evaluation.reports, speechprompt.evaluation.summary; "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'matplotlib', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
