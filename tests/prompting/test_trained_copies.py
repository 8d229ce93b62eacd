"""Prompts that are trained to answer over copies: calibrated over them, kept with their number, heard so by default."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechprompt.encoding import encode_corpus
from speechprompt.errors import ArtifactError, CorpusError, UsageError
from speechprompt.evaluation.ensembles import evaluate_ensemble
from speechprompt.evaluation.evaluate import evaluate
from speechprompt.prompting.answer_copies import answer_scores, artifact_scores
from speechprompt.prompting.artifact import CARD, CONFIG, Artifact
from speechprompt.prompting.calibration import fit_temperature
from speechprompt.prompting.domain import QUANTILE, fit_domain
from speechprompt.prompting.joint import Job, train_jobs
from speechprompt.prompting.members import divisions_of
from speechprompt.prompting.predictor import Predictor
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples
from speechprompt.prompting.task import Task
from speechprompt.prompting.teach import teach
from speechprompt.prompting.train import train
from speechprompt.prompting.training_copies import with_training_copies
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.speeds import AnswerCopies
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus
from test_encoding import CountingTokenizer, spoken_of
from toys import artifact_of, entry_of

LABELS = ("alpha", "beta", "gamma")
SHORT = TrainingOptions(steps=6, evaluations=2, batch_size=8, prompt_length=2, learning_rate=0.1)
OVER_TWO = SHORT.model_copy(update={"answer_copies": 2})
SPEEDS = AnswerCopies(2).speeds()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Clips of noise whose loudness wanders about what their word is: 24 each to train and validate on, 6 to answer."""
    folder, random, rows = tmp_path_factory.mktemp("noise"), np.random.default_rng(0), []
    for i in range(54):
        path, word = folder / f"{i}.wav", i % 3
        loud = np.repeat(10 ** random.uniform(-2.9 + 0.4 * word, -1.4 + 0.4 * word, 20), 159)
        soundfile.write(path, random.standard_normal(len(loud)) * loud, 8000, subtype="FLOAT")
        split = "test" if i >= 48 else ("train", "valid")[i // 3 % 2]
        rows.append(Utterance(str(i), split, {"word": LABELS[word]}, audio=path))
    return Corpus("noise", tuple(rows), {"word": LABELS})


@pytest.fixture(scope="module")
def spoken() -> SpokenLM:
    return spoken_of(ToyTokenizer())


@pytest.fixture(scope="module")
def over_two(corpus: Corpus, spoken: SpokenLM) -> Artifact:
    return train(corpus, spoken, options=OVER_TWO)


def heard(corpus: Corpus, spoken: SpokenLM, *variants: TrainingOptions) -> Corpus:
    """The corpus with units, and the copies that trainings ask for."""
    return with_training_copies(encode_corpus(corpus, spoken).corpus, spoken, variants).corpus


def targets_of(rows: Sequence[Utterance]) -> torch.Tensor:
    return torch.tensor([LABELS.index(u.labels["word"]) for u in rows])


def scores_of(artifact: Artifact, spoken: SpokenLM, corpus: Corpus, copies: int | None) -> list[list[float]]:
    rows = evaluate(spoken, artifact, corpus, baselines=(), copies=copies).rows
    return [list(row.slots["word"].scores) for row in rows]


def test_trainings_without_copies_keep_their_hashes() -> None:
    assert "answer_copies" not in SHORT.model_dump()
    assert OVER_TWO.model_dump() == {**SHORT.model_dump(), "answer_copies": 2}
    assert TrainingOptions.of_recipe("default", {"answer_copies": "4"}).answer_copies == 4
    for count in (1, -2, 22):
        with pytest.raises(UsageError, match=f"even number of copies, not {count}; take 0 to 20"):
            TrainingOptions(answer_copies=count)
        with pytest.raises(UsageError, match=f"even number of copies, not {count}; take 0 to 20"):
            TrainingOptions.of_recipe("default", {"answer_copies": str(count)})


def test_what_a_prompt_learns_is_the_same_and_what_it_says_of_itself_is_over_all_hearings(
    corpus: Corpus, spoken: SpokenLM, over_two: Artifact
) -> None:
    once = train(corpus, spoken, options=SHORT)
    state, other = once.entry.state_dict(), over_two.entry.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert once.metrics["history"] == over_two.metrics["history"]
    valid = heard(corpus, spoken, OVER_TWO).split("valid")
    scores = answer_scores(spoken.lm, over_two.entry, valid, 2)["word"]
    targets = targets_of(valid)
    numbers = over_two.metrics["valid"]
    assert numbers["accuracy"] == int((scores.argmax(1) == targets).sum()) / len(valid)
    assert numbers["loss"] == pytest.approx(float(torch.nn.functional.nll_loss(scores, targets)), abs=1e-6)
    assert numbers["copies"] == 2
    assert numbers["step"] == once.metrics["valid"]["step"]
    assert over_two.config.temperatures["word"] == fit_temperature(scores, targets)
    assert numbers["loss"] != once.metrics["valid"]["loss"]
    assert over_two.metrics["trust"] != once.metrics["trust"]
    assert "copies" not in once.metrics["valid"]
    assert once.metrics["valid"]["accuracy"] == max(e["accuracy"] for e in once.metrics["history"])


def test_a_threshold_keeps_to_its_bound_over_all_hearings(corpus: Corpus, spoken: SpokenLM) -> None:
    options = OVER_TWO.model_copy(update={"answer_coverage": 0.5})
    artifact = train(corpus, spoken, options=options)
    valid = heard(corpus, spoken, options).split("valid")
    scores = artifact_scores(spoken.lm, artifact, valid)["word"]
    best = artifact.config.calibration.apply("word", scores).max(1).values
    assert int((best.double() >= artifact.config.threshold).sum()) == len(valid) // 2


@pytest.mark.parametrize("rotates", [False, True])
def test_an_ensemble_has_one_number_for_all(
    corpus: Corpus, spoken: SpokenLM, tmp_path: Path, rotates: bool
) -> None:
    options = OVER_TWO.model_copy(update={"ensemble": 2, "rotate_validation": rotates})
    artifact = train(corpus, spoken, options=options)
    saved = Artifact.load(artifact.save(tmp_path / "both"), spoken)
    assert saved.config.answer_copies == artifact.config.answer_copies == 2
    whole = heard(corpus, spoken, options)
    right, judged = 0, [valid for _, valid in divisions_of(whole, options, whole.slots)]
    for member, rows in zip(saved.members, judged, strict=True):
        own = answer_scores(spoken.lm, member.entry, rows, 2)["word"]
        right += int((own.argmax(1) == targets_of(rows)).sum())
        assert member.calibration.temperatures["word"] == fit_temperature(own, targets_of(rows))
    if not rotates:
        together = artifact_scores(spoken.lm, saved, judged[0])["word"]
        right = 2 * int((together.argmax(1) == targets_of(judged[0])).sum())
    assert saved.metrics["valid"]["accuracy"] == pytest.approx(right / sum(map(len, judged)))
    assert [one["copies"] for one in saved.metrics["members"]] == [2, 2]


def test_every_door_hears_as_often_as_the_prompt_was_trained_to(
    corpus: Corpus, spoken: SpokenLM, over_two: Artifact
) -> None:
    own, twice, once = (scores_of(over_two, spoken, corpus, copies) for copies in (None, 2, 0))
    assert own == twice != once
    found = evaluate(spoken, over_two, corpus, baselines=())
    assert (found.copies, found.to_json()["copies"]) == (2, 2)
    assert evaluate(spoken, over_two, corpus, baselines=(), copies=0).copies == 0
    files = [str(u.audio) for u in corpus.split("test")]
    for copies, expected in ((None, own), (0, once), (2, twice)):
        told = Predictor(spoken, [over_two], copies=copies).predict(files)
        for prediction, scores in zip(told, expected, strict=True):
            assert list(prediction.slots["word"].scores.values()) == pytest.approx(scores, abs=1e-5)
    together = evaluate_ensemble(spoken, [over_two, over_two], corpus)
    assert together.copies == 2
    assert [r.slots["word"].predicted for r in together.rows] == [
        r.slots["word"].predicted for r in found.rows
    ]
    with pytest.raises(UsageError, match="even number of copies, not 3"):
        Predictor(spoken, copies=3)


def test_prompts_of_one_call_are_heard_over_their_own_numbers_and_each_speed_is_encoded_once(
    corpus: Corpus, over_two: Artifact
) -> None:
    tokenizer = CountingTokenizer()
    spoken = spoken_of(tokenizer)
    configs = [over_two.config.model_copy(update={"task": str(n), "answer_copies": n}) for n in (0, 2, 4)]
    prompts = [replace(over_two, config=config) for config in configs]
    files = [str(u.audio) for u in corpus.split("test")]
    predictor = Predictor(spoken, prompts)
    together = predictor.predict(files)
    assert tokenizer.encoded == 5 * len(files)  # two speeds are among the four
    for place, prompt in enumerate(prompts):
        for ours, alone in zip(together[place::3], Predictor(spoken, [prompt]).predict(files), strict=True):
            assert ours.slots["word"].scores == pytest.approx(dict(alone.slots["word"].scores), abs=1e-5)
    tokenizer.encoded = 0
    Predictor(spoken, prompts).predict(files, ["0"])
    assert tokenizer.encoded == len(files)  # what nobody asks about is not heard
    Predictor(spoken, prompts, copies=0).predict(files)
    assert tokenizer.encoded == 2 * len(files)


def test_a_prompt_that_comes_after_a_clip_was_encoded_hears_what_is_there(
    corpus: Corpus, spoken: SpokenLM, over_two: Artifact
) -> None:
    predictor = Predictor(spoken)
    [clip] = predictor.encode([str(corpus.utterances[0].audio)])
    assert clip.hearings(99, SPEEDS) == (clip.windows,)
    [known] = Predictor(spoken, [over_two]).encode([str(corpus.utterances[0].audio)])
    assert len(known.hearings(99, SPEEDS)) == 3
    assert len(known.hearings(99, AnswerCopies(4).speeds())) == 3


def test_clips_that_come_as_units_are_heard_once(spoken: SpokenLM) -> None:
    corpus = toy_corpus(60)
    options = OVER_TWO.model_copy(update={"ensemble": 2, "rotate_validation": True})
    told = with_training_copies(corpus, spoken, [options]).notices
    assert told == ["48 of 48 utterances have units and no audio; they stay without speed copies"]
    assert with_training_copies(corpus, spoken, [SHORT]).notices == []
    once, asked = (train(corpus, spoken, ["word"], each) for each in (SHORT, OVER_TWO))
    assert asked.config.answer_copies == 2
    assert asked.metrics["valid"]["accuracy"] == once.metrics["valid"]["accuracy"]
    assert asked.config.temperatures == once.config.temperatures
    assert "copies" not in asked.metrics["valid"]
    assert evaluate(spoken, asked, corpus, baselines=()).copies == 0


def test_only_validation_is_heard_again_unless_it_moves(corpus: Corpus) -> None:
    for rotates, splits in ((False, {"valid"}), (True, {"train", "valid"})):
        options = OVER_TWO.model_copy(update={"ensemble": 2, "rotate_validation": rotates})
        whole = heard(corpus, spoken_of(ToyTokenizer()), options, SHORT)
        assert {u.split for u in whole.utterances if u.speed_copies} == splits
        assert {tuple(u.speed_copies) for u in whole.split("valid")} == {SPEEDS}
    mixed = with_training_copies(
        encode_corpus(corpus, spoken_of(ToyTokenizer())).corpus,
        spoken_of(ToyTokenizer()),
        [OVER_TWO.model_copy(update={"speed_copies": 1})],
        every_split=True,
    ).corpus
    assert {len(u.speed_copies) for u in mixed.utterances} == {3}


def test_jobs_of_one_run_have_their_own_numbers(corpus: Corpus, spoken: SpokenLM, over_two: Artifact) -> None:
    whole = heard(corpus, spoken, OVER_TWO, SHORT)
    task = Task.of_corpus(whole)
    jobs = [Job("a", whole, task, SHORT), Job("b", whole, task, OVER_TWO)]
    once, twice = train_jobs(jobs, spoken)
    assert (once.config.answer_copies, twice.config.answer_copies) == (0, 2)
    assert twice.metrics["valid"]["accuracy"] == over_two.metrics["valid"]["accuracy"]
    assert "copies" not in once.metrics["valid"]
    bare = encode_corpus(corpus, spoken).corpus
    with pytest.raises(CorpusError, match="was not encoded at other speeds"):
        train_jobs([Job("c", bare, task, OVER_TWO)], spoken)


def test_ngrams_are_judged_over_all_hearings_too(corpus: Corpus, spoken: SpokenLM) -> None:
    options = OVER_TWO.model_copy(update={"ngrams": 256})
    artifact = train(corpus, spoken, options=options)
    valid = heard(corpus, spoken, options).split("valid")
    right = artifact_scores(spoken.lm, artifact, valid)["word"].argmax(1) == targets_of(valid)
    assert artifact.metrics["valid"]["accuracy"] == int(right.sum()) / len(valid)


def test_hidden_clips_of_a_lesson_are_heard_as_answers_are(corpus: Corpus, spoken: SpokenLM) -> None:
    taught = teach(corpus, spoken, "word", steps=6, options=OVER_TWO)
    assert taught.config.answer_copies == 2
    assert taught.metrics["held_out"]["clips"] == len(corpus.utterances)


def test_the_number_is_kept_and_a_damaged_one_is_refused(
    spoken: SpokenLM, over_two: Artifact, tmp_path: Path
) -> None:
    folder = over_two.save(tmp_path / "word")
    assert Artifact.load(folder, spoken).config.answer_copies == 2
    card = (folder / CARD).read_text()
    assert "the mean over a clip and 2 copies of it at other speeds" in card
    assert f"- valid: accuracy {over_two.metrics['valid']['accuracy']:.3f} over 2 copies" in card
    config = json.loads((folder / CONFIG).read_text())
    for count in (1, -2, 22, "many"):
        (folder / CONFIG).write_text(json.dumps({**config, "answer_copies": count}))
        with pytest.raises(ArtifactError, match="answer_copies"):
            Artifact.load(folder, spoken)
    plain = artifact_of(entry_of(spoken.lm)).save(tmp_path / "plain")
    assert "answer_copies" not in (plain / CONFIG).read_text()
    assert "other speeds" not in (plain / CARD).read_text()
    assert Artifact.load(plain, spoken).config.answer_copies == 0


def test_the_limit_of_a_domain_is_that_of_mean_distances() -> None:
    torch.manual_seed(0)
    taught, groups = torch.randn(60, 8), torch.zeros(60, dtype=torch.int64)
    valid = [torch.randn(50, 8) for _ in range(3)]
    domain = fit_domain(taught, groups, *valid)
    assert domain is not None
    means = torch.stack([domain.distances(states) for states in valid]).mean(0)
    assert float(means.quantile(QUANTILE)) == pytest.approx(1, abs=1e-5)
    single = fit_domain(taught, groups, valid[0])
    assert single is not None
    assert single.limit != domain.limit
    assert fit_domain(taught, groups, torch.randn(30, 8), torch.randn(30, 8)) is None


def test_examples_of_one_hearing_are_the_examples() -> None:
    corpus = toy_corpus(20)
    examples = Examples.of(Task.of_corpus(corpus), corpus.utterances)
    assert examples.answer_copies == []
    assert [one.units for one in examples.hearings()] == [examples.units]
