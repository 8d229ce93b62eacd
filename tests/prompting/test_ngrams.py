"""N-grams of units beside a prompt: what is read, by definition; weights that are fitted once the prompt has learnt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speechprompt.errors import ArtifactError, UsageError
from speechprompt.lms.batch import collate
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.calibration import fit_temperature
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.kinds import NgramKind
from speechprompt.prompting.outputs import outputs_of
from speechprompt.prompting.readings import COUNTS, ngram_buckets, ngram_stream, ngram_values
from speechprompt.prompting.recipes import MOST_TRAINED, TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_runs
from speechprompt.speech.units import Units
from speechprompt.testing import UNIT_COUNT, toy_lm
from toys import SPOKEN, TASK, TRAIN, artifact_of, entry_of, scores, scores_alone, some_units, with_garbage

ORDER = Task("order", {"order": ("rising", "falling")})


def by_definition(ids: list[int], buckets: int, kind: NgramKind) -> Tensor:
    """The stream of one utterance, an n-gram after the other."""
    found = [0.0] * buckets
    said = [(1, [unit]) for unit in ids]
    if kind == "ngrams":
        said += [(n, ids[first : first + n]) for n in (2, 3) for first in range(len(ids) - n + 1)]
    else:
        said += [(d + 1, [ids[i], ids[i + d]]) for d in (1, 2, 3) for i in range(len(ids) - d)]
    for code, units in said:
        for unit in units:
            code = code * 100_003 + unit
        found[((code * 2_654_435_761 % 2**32) // 2**16) * buckets // 2**16] += 1
    damped = torch.tensor([1 + math.log(count) if count else 0.0 for count in found])
    return damped / max(float(damped.norm()), 1e-12)


@pytest.mark.parametrize("kind", ["ngrams", "pairs"])
@pytest.mark.parametrize("buckets", [1, 37, 8192, 65_536])
def test_ngrams_are_hashed_damped_and_of_length_one(buckets: int, kind: NgramKind) -> None:
    rows = [[3, 4, 3, 4, 3], [7], [1, 19], [], [5] * 9]
    batch = with_garbage(collate([Units(ids) for ids in rows]), 10**9, 2)
    found = ngram_values(batch, ngram_stream(buckets, kind))
    torch.testing.assert_close(found, torch.stack([by_definition(ids, buckets, kind) for ids in rows]))
    assert found.norm(dim=1).tolist() == pytest.approx([1, 1, 1, 0, 1])


def test_a_batch_without_units_has_no_ngrams() -> None:
    assert not any(
        ngram_values(collate([Units([]), Units([])]), stream).any() for stream in ("ngrams-8", "pairs-8")
    )


def test_other_streams_have_no_ngrams() -> None:
    with pytest.raises(KeyError, match="counts"):
        ngram_values(collate([Units([1])]), COUNTS)


@pytest.mark.parametrize(
    ("stream", "buckets"),
    [
        ("ngrams-8192", 8192),
        ("ngrams-1", 1),
        ("ngrams-65536", 65_536),
        ("ngrams-65537", None),
        ("ngrams-99999999999999999999", None),
        ("ngrams-0", None),
        ("ngrams--1", None),
        ("ngrams-1_0", None),
        ("ngrams-²", None),
        ("ngrams", None),
        ("units", None),
    ],
)
def test_a_stream_of_ngrams_names_its_buckets(stream: str, buckets: int | None) -> None:
    assert ngram_buckets(stream) == ngram_buckets(stream.replace("ngrams", "pairs")) == buckets
    assert buckets is None or ngram_stream(buckets) == stream == ngram_stream(buckets, "ngrams")


def ordered(count: int, seed: int) -> Examples:
    """Utterances that hold the same units as often, and differ in which of two comes first."""
    random = np.random.default_rng(seed)
    targets = torch.from_numpy(random.integers(0, 2, (count, 1)))
    units = []
    for [target] in targets.tolist():
        noise = random.integers(4, UNIT_COUNT, 8).tolist()
        pair = [2, 3] if target == 0 else [3, 2]
        place = int(random.integers(0, len(noise)))
        units.append(Units([*noise[:place], *pair, *noise[place:]]))
    return Examples(units, targets, [str(i) for i in range(count)])


def ordered_run(train: Examples | None = None, valid: Examples | None = None, **changes: Any) -> Run:
    """A prompt that hardly trains, on a task that bigrams decide."""
    short = {"prompt_length": 2, "steps": 2, "evaluations": 1, "batch_size": 8, "streams": "counts"}
    options = TrainingOptions.of_recipe("default", {**short, **changes})
    train, valid = train or ordered(200, 0), valid or ordered(80, 1)
    return Run(
        "order", new_entry(ORDER, toy_lm(), options, train.units, train.targets), options, train, valid
    )


def accuracy_of(run: Run, examples: Examples) -> float:
    answered = outputs_of(toy_lm(), run.entry, examples).scores["order"].argmax(1)
    return float((answered == examples.targets[:, 0]).float().mean())


def test_ngrams_answer_what_counts_and_a_barely_trained_prompt_cannot() -> None:
    bare, run, unseen = ordered_run(), ordered_run(ngrams=1024), ordered(200, 2)
    train_runs(toy_lm(), [bare])
    train_runs(toy_lm(), [run])
    assert accuracy_of(bare, unseen) < 0.7
    assert accuracy_of(run, unseen) > 0.95
    assert run.entry.verbalizer.streams == ("state", COUNTS, "ngrams-1024")
    assert run.entry.trained_parameters() == bare.entry.trained_parameters() + 2 * 1024
    assert run.progress.best_accuracy == accuracy_of(run, run.valid) > bare.progress.best_accuracy


def test_pairs_answer_what_lies_apart() -> None:
    """Units that decide stand three places apart, which no 3-gram reaches."""

    def apart(count: int, seed: int) -> Examples:
        told = ordered(count, seed)
        random = np.random.default_rng(seed + 100)
        units = []
        for one in told.units:
            ids = list(one.ids)
            first = next(i for i, unit in enumerate(ids) if unit in (2, 3))
            between = random.integers(4, UNIT_COUNT, 2).tolist()
            units.append(Units([*ids[: first + 1], *between, *ids[first + 1 :]]))
        return Examples(units, told.targets, told.ids)

    reached = {}
    for kind in ("ngrams", "pairs"):
        run = ordered_run(apart(200, 0), apart(80, 1), ngrams=1024, ngram_kind=kind)
        train_runs(toy_lm(), [run])
        reached[kind] = accuracy_of(run, apart(200, 2))
    assert reached["ngrams"] < 0.75 < 0.9 < reached["pairs"]
    assert run.entry.verbalizer.streams == ("state", COUNTS, "pairs-1024")


def test_refitted_ngrams_have_learnt_from_validation_and_are_not_judged_by_it() -> None:
    runs = [ordered_run(ngrams=512, refit_ngrams=refit) for refit in (False, True)]
    for run in runs:
        object.__setattr__(run.train, "targets", torch.zeros_like(run.train.targets))
        run.train.targets[:100] = 1  # order says nothing of what is to be learnt in train, and all in valid
        train_runs(toy_lm(), [run])
    plain, refitted = runs
    assert plain.answering is plain.entry
    assert torch.equal(plain.entry.verbalizer.weight, refitted.entry.verbalizer.weight)
    assert plain.progress.best_loss == refitted.progress.best_loss
    fits = [run.ngram_fit for run in runs]
    assert fits[0] is not None
    assert fits[1] is not None
    assert not torch.equal(fits[0].ngrams.weight, fits[1].ngrams.weight)
    mixed = torch.cat([refitted.train.targets, refitted.valid.targets])
    both = Examples([*refitted.train.units, *refitted.valid.units], mixed, [])
    asked = outputs_of(toy_lm(), refitted.entry.reading(fits[1].ngrams), both).scores["order"].argmax(1)
    before = outputs_of(toy_lm(), refitted.entry.reading(fits[0].ngrams), both).scores["order"].argmax(1)
    valid = slice(len(refitted.train), None)
    right, was_right = ((told[valid] == mixed[valid, 0]).float().mean() for told in (asked, before))
    assert right > was_right + 0.2
    weight = fits[1].share * fits[1].ngrams.weight
    weight[:, : fits[1].prompt.weight.shape[1]] += fits[1].prompt.weight
    torch.testing.assert_close(refitted.answering.verbalizer.weight, weight)


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        if event["event"] == "step" and event["step"] == 4:
            raise Stop

    whole, begun, resumed = (ordered_run(ngrams=512, steps=6) for _ in range(3))
    train_runs(toy_lm(), [whole])
    with pytest.raises(Stop):
        train_runs(toy_lm(), [begun], stop, tmp_path / "state.pt", checkpoint_every=2)
    train_runs(toy_lm(), [resumed], None, tmp_path / "state.pt", checkpoint_every=2)
    assert torch.equal(whole.entry.verbalizer.weight, resumed.entry.verbalizer.weight)


def test_validation_never_gets_worse_by_ngrams_that_say_nothing() -> None:
    """Labels drawn by chance: n-grams learn them by heart, and validation says what that is worth."""
    run, bare = ordered_run(ngrams=4096), ordered_run()
    for each in (run, bare):
        random = torch.Generator().manual_seed(3)
        each.train.targets.random_(0, 2, generator=random)
        each.valid.targets.random_(0, 2, generator=random)
        train_runs(toy_lm(), [each])
    found, plain = (calibrated_loss(each) for each in (run, bare))
    assert found <= plain + 1e-6
    assert run.progress.best_loss == pytest.approx(found, abs=1e-5)
    apart = run.ngram_fit
    assert apart is not None
    assert apart.prompt_alone == bare.progress.best_accuracy
    assert torch.equal(apart.prompt.weight, bare.entry.verbalizer.weight)
    whole = apart.share * apart.ngrams.weight
    whole[:, : apart.prompt.weight.shape[1]] += apart.prompt.weight
    torch.testing.assert_close(run.entry.verbalizer.weight, whole)


def calibrated_loss(run: Run) -> float:
    """Nats on validation, at the temperature that suits it."""
    scores = outputs_of(toy_lm(), run.entry, run.valid).scores["order"]
    wanted = run.valid.targets[:, 0]
    return float(torch.nn.functional.cross_entropy(scores / fit_temperature(scores, wanted), wanted))


def test_a_label_that_no_utterance_has_is_never_the_best() -> None:
    task = Task("order", {"order": ("never", "rising", "falling"), "same": ("one", "other")})
    train, valid = ordered(120, 0), ordered(60, 1)
    for each in (train, valid):
        object.__setattr__(each, "targets", torch.cat([each.targets + 1, torch.zeros_like(each.targets)], 1))
    options = TrainingOptions(prompt_length=1, steps=1, evaluations=1, ngrams=1024)
    run = Run("order", new_entry(task, toy_lm(), options, train.units, train.targets), options, train, valid)
    train_runs(toy_lm(), [run])
    found = outputs_of(toy_lm(), run.entry, valid).scores
    assert (found["order"].argmax(1) > 0).all()
    assert not run.entry.verbalizer.weight[run.entry.verbalizer.columns("same"), -1024:].any()


def test_an_artifact_with_ngrams_comes_back_and_answers_in_any_mixture(tmp_path: Path) -> None:
    entries = [entry_of(SPOKEN.lm, streams="state"), entry_of(SPOKEN.lm, seed=1), entry_of(SPOKEN.lm, seed=2)]
    for entry, buckets in zip(entries[1:], (64, 512), strict=True):
        verbalizer = entry.verbalizer
        more = torch.randn(len(verbalizer.weight), buckets, generator=torch.Generator().manual_seed(buckets))
        verbalizer.weight = torch.nn.Parameter(torch.cat([verbalizer.weight, more], 1))
        verbalizer.streams = (
            *verbalizer.streams,
            ngram_stream(buckets, "pairs" if buckets == 512 else "ngrams"),
        )
    loaded = [
        Artifact.load(artifact_of(entry).save(tmp_path / str(i)), SPOKEN).entry
        for i, entry in enumerate(entries)
    ]
    units, rows = some_units([5, 1, 30, 9, 2]), torch.tensor([1, 0, 2, 1, 2])
    together = scores(SPOKEN.lm, loaded, collate(units), rows)
    for row, k in enumerate(rows.tolist()):
        for slot, alone in scores_alone(SPOKEN.lm, entries[k], units[row]).items():
            torch.testing.assert_close(together[row][slot], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stream", ["ngrams-65537", "ngrams-9999999999999", "ngrams-", "ngrams-8"])
def test_an_artifact_whose_ngrams_do_not_fit_is_refused(tmp_path: Path, stream: str) -> None:
    entry = entry_of(SPOKEN.lm)
    folder = artifact_of(entry, streams=[*entry.verbalizer.streams, stream]).save(tmp_path / "wrong")
    with pytest.raises(ArtifactError, match="does not match its configuration"):
        Artifact.load(folder, SPOKEN)


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_options_keep_to_what_can_be_fitted(recipe: str) -> None:
    wrong = {"ngrams": 64} if recipe == "paper" else {"ngrams": 64, "verbalizer": "random"}
    with pytest.raises(UsageError, match="n-grams need the learnable verbalizer"):
        TrainingOptions.of_recipe(recipe, wrong)
    with pytest.raises(UsageError, match="'ngrams'"):
        TrainingOptions.of_recipe("default", {"ngrams": 65_537})
    with pytest.raises(UsageError, match="no n-grams to fit again"):
        TrainingOptions.of_recipe("default", {"refit_ngrams": True})
    assert not any("ngram" in name for name in TrainingOptions().model_dump(mode="json"))
    assert TrainingOptions(ngrams=64).model_dump(mode="json")["ngrams"] == 64


def test_a_default_prompt_is_shorter_beside_ngrams() -> None:
    """All that is trained stays under 0.15 M, where labels are few enough for that."""
    lm = toy_lm(layers=6, width=256)
    labels = sum(map(len, TASK.slots.values()))
    buckets = 100_000 // labels
    plain, beside = (
        new_entry(TASK, lm, TrainingOptions(ngrams=n), TRAIN.units, TRAIN.targets) for n in (0, buckets)
    )
    assert 1 < beside.prompt.length < plain.prompt.length
    assert beside.trained_parameters() + labels * buckets <= MOST_TRAINED
