"""An ensemble as one prompt: trained in one run, saved in one folder, asked like any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.material import write_tone
from speechprompt.errors import ArtifactError, UsageError
from speechprompt.evaluation.ensembles import ensemble_scores
from speechprompt.evaluation.evaluate import evaluate, run_baselines
from speechprompt.evaluation.occlusion import occlude, occlude_together
from speechprompt.experiments.methods import prompt_run
from speechprompt.experiments.reproduce import Study
from speechprompt.experiments.sections import task_section
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting import recipes
from speechprompt.prompting.answer_copies import artifact_scores
from speechprompt.prompting.artifact import CONFIG, TENSORS, Artifact
from speechprompt.prompting.finishing import finish, finish_together
from speechprompt.prompting.members import MEMBER_SEEDS, divisions_of, members_of
from speechprompt.prompting.predictor import Predictor
from speechprompt.prompting.recipes import MOST_TRAINED, TrainingOptions
from speechprompt.prompting.run import Examples
from speechprompt.prompting.task import Task
from speechprompt.prompting.train import few_options, suited_options, suits_few, train
from speechprompt.prompting.training import train_runs
from speechprompt.server.catalogue import revision_of
from speechprompt.speech.manifest import Utterance
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import toy_corpus, toy_lm
from toys import SPOKEN, artifact_of, entry_of, run_of, together_of

CORPUS = toy_corpus(120)
TASK = Task.of_corpus(CORPUS)
TEST = CORPUS.split("test")
SHORT = TrainingOptions(steps=12, evaluations=3, prompt_length=2, learning_rate=0.1, ensemble=3)


def one_by_one(options: TrainingOptions) -> list[Artifact]:
    """The members, each trained on its own."""
    found = []
    for own, (taught, judged) in zip(
        members_of(options), divisions_of(CORPUS, options, TASK.slots), strict=True
    ):
        alone = own.model_copy(update={"ensemble": 1, "rotate_validation": False})
        examples = Examples.to_train(TASK, taught, alone), Examples.of(TASK, judged)
        lm, run = prompt_run(SPOKEN.lm, TASK, alone, *examples)
        train_runs(lm, [run])
        found.append(finish(run, SPOKEN, CORPUS))
    return found


def rightness_of(members: list[Artifact], utterances: Sequence[Utterance]) -> torch.Tensor:
    """Which utterances (n,) the members together answer rightly in all slots."""
    told = ensemble_scores(SPOKEN.lm, members, utterances)
    targets = torch.tensor(TASK.targets(utterances))
    return torch.stack([scores.argmax(1) == targets[:, s] for s, scores in enumerate(told.values())]).all(0)


def test_options_that_nobody_chose_suit_the_clips_and_the_lm(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = len(CORPUS.split("train"))
    assert suited_options(CORPUS, SPOKEN) == TrainingOptions.of_recipe("few", {"answer_copies": 0})
    assert suited_options(CORPUS, SPOKEN, artifact_of(entry_of(SPOKEN.lm))) == TrainingOptions()
    monkeypatch.setattr(recipes, "FEW_CLIPS", clips)
    assert suited_options(CORPUS, SPOKEN).recipe == "few"
    monkeypatch.setattr(recipes, "FEW_CLIPS", clips - 1)
    assert suited_options(CORPUS, SPOKEN) == TrainingOptions()
    monkeypatch.setattr(recipes, "FEW_CLIPS", clips)
    more = (replace(u, id=f"{u.id}x", split="valid") for u in CORPUS.split("train"))
    many = replace(CORPUS, utterances=(*CORPUS.utterances, *more))
    assert suited_options(many, SPOKEN) == TrainingOptions()


def test_prompts_that_would_be_too_short_are_not_chosen() -> None:
    def suits(lm: UnitLM, **changes: object) -> bool:
        spoken = SpokenLM.of_parts("toy@1", SPOKEN.tokenizer, lm)
        return suits_few(CORPUS, spoken, few_options(CORPUS, changes), ["word"])

    assert suits(toy_lm(layers=4, width=192))
    # three prompts over an LM as wide would be two vectors a layer each, and n-grams leave them as few
    assert not suits(toy_lm(layers=12, width=768))
    assert not suits(toy_lm(layers=4, width=192), ngrams=45_000)


def test_units_without_recordings_are_heard_once(tmp_path: Path) -> None:
    assert suited_options(CORPUS, SPOKEN).answer_copies == 0
    far = replace(
        CORPUS, utterances=tuple(replace(u, audio=tmp_path / f"{u.id}.wav") for u in CORPUS.utterances)
    )
    assert suited_options(far, SPOKEN) == few_options(CORPUS)
    for u in far.utterances:
        write_tone(tmp_path / f"{u.id}.wav", 300.0)
    assert suited_options(far, SPOKEN) == TrainingOptions.of_recipe("few")


@pytest.mark.parametrize("rotates", [False, True])
@pytest.mark.parametrize("ngrams", [0, 256])
def test_it_answers_as_prompts_that_trained_alone(tmp_path: Path, rotates: bool, ngrams: int) -> None:
    options = SHORT.model_copy(update={"rotate_validation": rotates, "ngrams": ngrams})
    artifact = train(CORPUS, SPOKEN, options=options)
    members = one_by_one(options)
    expected = ensemble_scores(SPOKEN.lm, members, TEST)
    saved = Artifact.load(artifact.save(tmp_path / "three"), SPOKEN)
    for one in (artifact, saved):
        for slot, scores in artifact_scores(SPOKEN.lm, one, TEST).items():
            torch.testing.assert_close(scores, expected[slot], atol=1e-3, rtol=0)
    assert saved.config == artifact.config
    assert [m.seed for m in saved.config.members] == [0, MEMBER_SEEDS, 2 * MEMBER_SEEDS]
    assert saved.config.trained_parameters == sum(m.config.trained_parameters for m in members)
    validated = {tuple(u.id for u in judged) for _, judged in divisions_of(CORPUS, options, TASK.slots)}
    assert len(validated) == (3 if rotates else 1)
    divided = divisions_of(CORPUS, options, TASK.slots)
    parts = [([m], judged) for m, (_, judged) in zip(members, divided, strict=True)]
    right = torch.cat([rightness_of(*part) for part in (parts if rotates else [(members, divided[0][1])])])
    assert saved.metrics["valid"]["accuracy"] == pytest.approx(float(right.float().mean()))
    assert len(saved.metrics["members"]) == 3


def test_a_predictor_asks_all_of_them(tmp_path: Path) -> None:
    artifact = together_of(
        artifact_of(entry_of(SPOKEN.lm, seed=0)),
        artifact_of(entry_of(SPOKEN.lm, seed=1), temperatures={"word": 0.5, "length": 3.0}),
        artifact_of(entry_of(SPOKEN.lm, seed=2)),
    )
    artifact.save(tmp_path / "three")
    predictor = Predictor(SPOKEN, [tmp_path / "three"])
    random = np.random.default_rng(0)
    waveform = (np.repeat(random.uniform(0, 0.5, 30), 400) * random.standard_normal(12_000)).astype(
        np.float32
    )
    [found] = predictor.predict(waveform)
    units = replace(TEST[0], units=SPOKEN.tokenizer.encode(waveform))
    scores = artifact.config.calibration.apply("word", artifact_scores(SPOKEN.lm, artifact, [units])["word"])
    assert list(found.slots["word"].scores.values()) == pytest.approx(scores[0].tolist(), abs=1e-5)
    [first] = Predictor(SPOKEN, [replace(artifact, others=(), path=None)]).predict(waveform)
    assert first.slots["word"].score != pytest.approx(found.slots["word"].score, abs=1e-4)


def test_the_distance_from_training_is_the_mean_of_all() -> None:
    corpus = toy_corpus(400)
    artifact = train(corpus, SPOKEN, ["word"], SHORT.model_copy(update={"ensemble": 2, "steps": 3}))
    assert all(member.domain is not None for member in artifact.members)
    waveform = np.random.default_rng(1).standard_normal(8000).astype(np.float32) * 0.1
    [found] = Predictor(SPOKEN, [artifact]).predict(waveform)
    each = [
        Predictor(SPOKEN, [replace(artifact_of(m.entry), domain=m.domain)]).predict(waveform)[0].out_of_domain
        for m in artifact.members
    ]
    assert found.out_of_domain == pytest.approx(sum(x for x in each if x is not None) / 2, abs=1e-4)
    assert each[0] != pytest.approx(each[1], abs=1e-3)


@pytest.mark.parametrize("ensemble", [1, 2, 3, 8, 16])
@pytest.mark.parametrize(("layers", "width"), [(4, 256), (6, 384), (12, 1024)])
@pytest.mark.parametrize(("verbalizer", "ngrams"), [(0, 0), (2_000, 0), (5_000, 60_000), (40_000, 0)])
def test_all_prompts_share_the_budget(
    ensemble: int, layers: int, width: int, verbalizer: int, ngrams: int
) -> None:
    options = TrainingOptions(ensemble=ensemble)
    length = options.length_for(layers, width, verbalizer, ngrams)
    each = 2 * layers * width
    total = ensemble * (length * each + width + verbalizer) + ngrams
    counts_apart = verbalizer > options.most_trained // 2
    assert length == 1 or total <= MOST_TRAINED or counts_apart
    longer = ensemble * ((length + 1) * each + width + verbalizer) + ngrams
    fits = longer <= 0.9 * MOST_TRAINED and ensemble * ((length + 1) * each + width) <= 0.88 * MOST_TRAINED
    assert length == 20 or not fits or counts_apart


def test_options_that_ask_for_one_prompt_are_written_as_before() -> None:
    assert {"ensemble", "rotate_validation"}.isdisjoint(TrainingOptions().model_dump())
    assert {"ensemble", "rotate_validation"} <= SHORT.model_dump().keys()
    with pytest.raises(UsageError, match="several; ask for --ensemble 3"):
        TrainingOptions.of_recipe("default", {"rotate_validation": True})
    with pytest.raises(UsageError, match="ensemble"):
        TrainingOptions.of_recipe("default", {"ensemble": 17})
    with pytest.raises(UsageError, match="answer alone"):
        Study(SPOKEN, {}, Path(), lambda name: None, print, changes={"ensemble": 2}).variants("row")


def test_a_threshold_keeps_its_bound_on_what_validated() -> None:
    options = SHORT.model_copy(update={"answer_coverage": 0.5, "learning_rate": 1e-3, "steps": 6})
    for rotates in (False, True):
        artifact = train(CORPUS, SPOKEN, ["word"], options.model_copy(update={"rotate_validation": rotates}))
        assert artifact.metrics["trust"]["coverage"] == pytest.approx(0.5, abs=0.06)
        assert artifact.config.threshold > 0


def test_one_run_is_no_ensemble() -> None:
    run = run_of(SPOKEN.lm)
    train_runs(SPOKEN.lm, [run])
    one, same = finish(run, SPOKEN, CORPUS), finish_together([run], SPOKEN, CORPUS)
    assert (one.config, one.metrics) == (same.config, same.metrics)
    assert not same.others
    assert "members" not in json.loads(same.config.model_dump_json())


def test_what_makes_it_another_prompt() -> None:
    one, two, three = (artifact_of(entry_of(SPOKEN.lm, seed=seed)) for seed in range(3))
    first, second = together_of(one, two), together_of(one, three)
    assert len({revision_of(a) for a in (one, first, second)}) == 3


def test_damaged_members_are_refused(tmp_path: Path) -> None:
    folder = together_of(*(artifact_of(entry_of(SPOKEN.lm, seed=s)) for s in (0, 1))).save(tmp_path / "two")
    tensors, config = load_file(folder / TENSORS), (folder / CONFIG).read_text()
    assert {name.partition(".")[0] for name in tensors} == {"prompt", "verbalizer", "member2"}

    def refused(message: str, change: dict[str, torch.Tensor | None], text: str = config) -> None:
        kept = {name: x for name, x in {**tensors, **change}.items() if x is not None}
        save_file(kept, folder / TENSORS)
        (folder / CONFIG).write_text(text)
        with pytest.raises(ArtifactError, match=message):
            Artifact.load(folder, SPOKEN)
        save_file(tensors, folder / TENSORS)
        (folder / CONFIG).write_text(config)

    vectors = tensors["member2.prompt.vectors"]
    refused("prompt.vectors", {"member2.prompt.vectors": None})
    refused("its prompt is", {"member2.prompt.vectors": vectors[..., :1].contiguous()})
    refused("not numbers", {"member2.prompt.vectors": torch.full_like(vectors, torch.nan)})
    refused("prompt.vectors", {"member3.prompt.vectors": vectors + 1})
    values = json.loads(config)
    refused("member2", {}, json.dumps({**values, "members": values["members"][:1]}))
    refused("prompt.vectors", {}, json.dumps({**values, "members": values["members"] * 8}))
    refused("damaged", {}, json.dumps({**values, "members": values["members"] * 9}))
    frozen = {**values["members"][0], "temperatures": {"word": 0}}
    refused("damaged", {}, json.dumps({**values, "members": [frozen, frozen]}))
    blind = {**values["members"][1], "streams": ["smell"]}
    refused("does not match", {}, json.dumps({**values, "members": [values["members"][0], blind]}))
    assert len(Artifact.load(folder, SPOKEN).members) == 2


def test_it_cannot_decode_freely_and_its_pictures_are_of_all() -> None:
    both = together_of(
        artifact_of(entry_of(SPOKEN.lm, seed=0)),
        artifact_of(entry_of(SPOKEN.lm, seed=1), temperatures={"word": 0.5}),
    )
    with pytest.raises(UsageError, match="leave --free out"):
        evaluate(SPOKEN, both, CORPUS, free=True)
    units = [u.units for u in TEST[:2] if u.units is not None]
    found = occlude_together(SPOKEN.lm, both.members, units, 5)
    one, two = (occlude(SPOKEN.lm, m.entry, units, 5) for m in both.members)
    for ours, first, second in zip(found, one, two, strict=True):
        expected = (first.scores["word"] + (second.scores["word"] / 0.5).log_softmax(-1)) / 2
        torch.testing.assert_close(ours.scores["word"], expected)
        assert ours.without["word"].shape == first.without["word"].shape
    evaluation = evaluate(SPOKEN, both, CORPUS, baselines=())
    section = task_section(both, evaluation, SPOKEN, TEST)
    assert section.notices == ("2 prompts answer together; the verbalizer is the first's.",)
    assert section.trained_parameters == 2 * artifact_of(entry_of(SPOKEN.lm)).config.trained_parameters


def test_several_prompts_start_from_as_many_one_each() -> None:
    still = SHORT.model_copy(update={"learning_rate": 1e-30, "steps": 1, "evaluations": 1, "ensemble": 2})
    theirs = train(CORPUS, SPOKEN, ["word"], SHORT.model_copy(update={"ensemble": 2}))
    first, second = (member.entry.prompt.vectors for member in theirs.members)
    assert not torch.equal(first, second)
    for count, expected in ((2, (first, second)), (3, (first,) * 3), (1, (first,))):
        options = still.model_copy(update={"ensemble": count})
        ours = train(CORPUS, SPOKEN, ["word"], options, initial=theirs)
        for member, vectors in zip(ours.members, expected, strict=True):
            torch.testing.assert_close(member.entry.prompt.vectors, vectors)


def test_baselines_learn_from_validation_where_prompts_did() -> None:
    words = CORPUS.with_slots(["word"])
    options = SHORT.model_copy(update={"rotate_validation": True, "steps": 1, "evaluations": 1})
    turned = train(words, SPOKEN, options=options)
    taught = replace(
        words,
        utterances=tuple(replace(u, split="train") if u.split == "valid" else u for u in words.utterances),
    )
    for artifact, known in ((turned, taught), (train(words, SPOKEN, options=SHORT), words)):
        told = evaluate(SPOKEN, artifact, words, baselines=["majority", "n-gram"]).baselines
        alone = run_baselines(SPOKEN, known, ["word"], names=["majority", "n-gram"])
        assert [one.trained_parameters for one in told] == [one.trained_parameters for one in alone]
    fewer = run_baselines(SPOKEN, words, ["word"], names=["n-gram"])
    more = run_baselines(SPOKEN, taught, ["word"], names=["n-gram"])
    assert fewer[0].trained_parameters < more[0].trained_parameters
