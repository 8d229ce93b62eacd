"""The page of a table of results: Markdown with pictures, and the same numbers as JSON beside it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from speechprompt.evaluation.plots import shots_plot, study_plot
from speechprompt.evaluation.reports import StudyRow
from speechprompt.evaluation.svg import standalone
from speechprompt.experiments.results_lines import Line, ResultsTable
from speechprompt.experiments.tables import json_text, markdown_table, write_whole

_TEST = (
    "Accuracy in percent with 95 % intervals: one bootstrap over seeds, then speakers where known, else "
    "utterances (over five to ten speakers it holds the truth 85 to 93 times in 100, "
    "`benchmarks/interval_coverage.py`). All slots must be right. `rounds`: seeds, or folds. `N a label`: so "
    "many clips of each label train, as many more validate. `trained`: parameters of the prompts that answer "
    "together. Options of a row were chosen on clips that no given split tests; rows by folds test those clips "
    "too, in other folds.\n\n"
    "A difference is paired, and bold where its interval excludes zero. Differences need the utterances that "
    "both cells got right, which cells since 2026-11-28 note (`right_on_test` in the JSON beside this page, "
    "with options, versions and the LM of each line).\n\n"
    "Where a row's options ask for copies at other speeds, its prompts train on them (`speed_copies`) and "
    "answer with the mean over them (`answer_copies`); so does `n-gram copies`. `n-gram tuned` has all that "
    "prompts have but how long units last: validation chooses its strength, its balance and whether copies help; then "
    "it learns from the validation clips as well. `cnn` learns from training clips, and hears copies "
    "where its own options ask for them. All other baselines hear the recordings once, and learn from training clips "
    "only."
)
_VALID = "Accuracy in percent on validation, to choose options by; no test is shown."
_MARKS = (
    "Prompts in colour, the n-gram SVM on the same units in grey; the tick is a convolutional network on the units, "
    "tuned on validation."
)
_CURVES = ("prompt", "n-gram", "mfcc n-gram", "probe")
"""Methods of a learning curve in the order in which they are drawn."""


def write_page(table: ResultsTable, page: Path) -> None:
    """Write `page` (Markdown), its JSON and its pictures (SVG, named after the page).

    Side effects: those files, each whole or not at all.
    """
    pictures = _pictures(table.lines, page.stem)
    for _, name, drawn in pictures:
        write_whole(page.with_name(name), standalone(drawn))
    write_whole(page, markdown(table, [(title, name) for title, name, _ in pictures]))
    write_whole(page.with_suffix(".json"), json_text(table.to_json()))


def markdown(table: ResultsTable, pictures: list[tuple[str, str]]) -> str:
    """The table with the sentence that says how to read it; `pictures` are titles and file names beside it."""
    about = _TEST if table.settings["shown"] == "test" else _VALID
    parts = ["# Results", about, markdown_table(*table.shown(marked=True))]
    if pictures:
        parts += [_MARKS, *(f"![{title}]({name})" for title, name in pictures)]
    return "\n\n".join(parts) + "\n"


def _pictures(lines: tuple[Line, ...], stem: str) -> list[tuple[str, str, str]]:
    """Title, file name and SVG of what has been measured: all tests in one, then a picture a learning curve."""
    rows = [
        StudyRow(_name(line), line.accuracy["prompt"], line.accuracy.get("n-gram"), _ceiling(line))
        for line in lines
        if line.shots is None and "prompt" in line.accuracy
    ]
    found = [("Accuracy of prompts by test", f"{stem}.svg", study_plot(rows, wide=True))] if rows else []
    for (name, spoken_lm), group in groupby(lines, lambda line: (line.name, line.spoken_lm)):
        points = [line for line in group if line.shots is not None and "prompt" in line.accuracy]
        if len(points) < 2:
            continue
        methods = [m for m in _CURVES if all(m in line.accuracy for line in points)]
        curves = [(method, [line.accuracy[method] for line in points]) for method in methods]
        title = f"{points[0].title} over {spoken_lm} by training utterances a label"
        drawn = shots_plot([line.shots or 0 for line in points], curves, title)
        found.append((title, f"{stem}-{name}-{spoken_lm}.svg", drawn))
    return found


def _name(line: Line) -> str:
    return f"{line.title} ({line.spoken_lm})"


def _ceiling(line: Line) -> float | None:
    ceiling = line.accuracy.get("cnn")
    return None if ceiling is None else ceiling.estimate
