"""Answers over copies at other speeds: what is heard, that all doors give the same, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from experiments.test_results_table import another, table_of
from speechprompt.encoding import encode_corpus, with_speed_copies
from speechprompt.errors import CorpusError, UsageError
from speechprompt.evaluation.baselines import NgramBaseline
from speechprompt.evaluation.ensembles import ensemble_scores, evaluate_ensemble
from speechprompt.evaluation.evaluate import evaluate, with_answer_copies
from speechprompt.experiments.methods import prompt_run
from speechprompt.experiments.table_cells import FeatureCache, Measure
from speechprompt.experiments.table_options import cnn_options, hearing_options, training_options
from speechprompt.experiments.table_rounds import Round
from speechprompt.experiments.unit_cnn import log_probabilities, train_cnn
from speechprompt.prompting.answer_copies import answer_scores
from speechprompt.prompting.predictor import Predictor, Question
from speechprompt.prompting.recipes import FEW
from speechprompt.prompting.run import Examples
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_runs
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.hearings import hearings_of
from speechprompt.speech.manifest import Corpus, Utterance, write_manifest
from speechprompt.speech.speeds import AnswerCopies, at_speed
from speechprompt.speech.units import Units
from speechprompt.testing import ToyTokenizer
from test_encoding import CountingTokenizer, spoken_of
from toys import CORPUS, SPOKEN, artifact_of, entry_of, scores_alone

SPEEDS = (0.9, 0.95, 1.05, 1.1)
TASK = Task.of_corpus(CORPUS.with_slots(["word"]))
ARTIFACT = artifact_of(entry_of(SPOKEN.lm, task=TASK), temperatures={"word": 1.7})


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Twelve clips of noise whose loudness wanders: six to train on, three to validate on, three to answer."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(12):
        path = tmp_path / f"{i}.wav"
        loud = np.repeat(10 ** random.uniform(-3.9, -0.4, 40), 159)
        soundfile.write(path, random.standard_normal(len(loud)) * loud, 8000, subtype="FLOAT")
        split = ("train", "train", "valid", "test")[i % 4]
        rows.append(Utterance(str(i), split, {"word": ("alpha", "beta", "gamma")[i % 3]}, audio=path))
    return Corpus("noise", tuple(rows), {"word": ("alpha", "beta", "gamma")})


def test_speeds_lie_evenly_about_the_clips_own() -> None:
    assert AnswerCopies(0).speeds() == ()
    assert AnswerCopies(2).speeds("any") == (0.9, 1.1)
    assert AnswerCopies(4).speeds("other") == SPEEDS
    assert AnswerCopies(2, 0.04).speeds() == (0.96, 1.04)
    for count in (1, 3, -2, 22):
        with pytest.raises(UsageError, match=f"even number of copies, not {count}"):
            AnswerCopies(count).speeds()


def test_every_door_answers_with_the_mean_of_what_is_heard(corpus: Corpus) -> None:
    spoken = spoken_of(ToyTokenizer())
    test = corpus.split("test")
    waves = [read_waveform(u.audio, 8000, None, None)[0] for u in test if u.audio is not None]
    expected = []
    for wave in waves:
        heard = [ToyTokenizer().encode(wave), *(ToyTokenizer().encode(at_speed(wave, s)) for s in SPEEDS)]
        assert len(set(map(len, heard))) > 1  # the copies are not the clip again
        logs = torch.stack([scores_alone(spoken.lm, ARTIFACT.entry, units)["word"] for units in heard])
        expected.append((logs.mean(0) / 1.7).softmax(-1))
    found = evaluate(spoken, ARTIFACT, corpus, baselines=(), copies=4)
    asked = Predictor(spoken, [ARTIFACT], copies=4).predict([str(u.audio) for u in test])
    for answer, prediction, right in zip(found.rows, asked, expected, strict=True):
        scores = list(prediction.slots["word"].scores.values())
        torch.testing.assert_close(torch.tensor(scores), right, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.tensor(answer.slots["word"].scores), right, atol=1e-5, rtol=0)
        assert answer.slots["word"].predicted == prediction.slots["word"].label
    encoded = with_answer_copies(encode_corpus(corpus, spoken).corpus, spoken, "test", 4)
    together = ensemble_scores(spoken.lm, [ARTIFACT, ARTIFACT], encoded.split("test"), 4)["word"]
    torch.testing.assert_close(together.exp(), torch.stack(expected), atol=1e-5, rtol=0)
    one = evaluate_ensemble(spoken, [ARTIFACT], corpus, copies=4)
    assert [r.slots["word"].predicted for r in one.rows] == [r.slots["word"].predicted for r in found.rows]
    once = evaluate(spoken, ARTIFACT, corpus, baselines=())
    assert [r.slots["word"].scores for r in once.rows] != [r.slots["word"].scores for r in found.rows]


def test_only_the_answered_split_is_heard_again_and_once(corpus: Corpus) -> None:
    tokenizer = CountingTokenizer()
    spoken = spoken_of(tokenizer)
    plain = encode_corpus(corpus, spoken).corpus
    tokenizer.encoded = 0
    heard = with_answer_copies(plain, spoken, "test", 2)
    assert tokenizer.encoded == 2 * len(corpus.split("test"))
    assert {u.split for u in heard.utterances if u.speed_copies} == {"test"}
    assert with_answer_copies(heard, spoken, "test", 2) == heard
    assert tokenizer.encoded == 2 * len(corpus.split("test"))
    assert with_answer_copies(plain, spoken, "test", 0) == plain


def test_what_was_not_heard_again_is_an_error_and_units_are_heard_once(corpus: Corpus) -> None:
    spoken = spoken_of(ToyTokenizer())
    plain = encode_corpus(corpus, spoken).corpus
    with pytest.raises(CorpusError, match="'3' was not encoded at other speeds"):
        hearings_of(plain.split("test"), 2)
    rows = CORPUS.with_slots(["word"]).split("test")
    once, thrice = (answer_scores(SPOKEN.lm, ARTIFACT.entry, rows, copies)["word"] for copies in (0, 2))
    torch.testing.assert_close(once, thrice, atol=1e-5, rtol=0)


def test_windows_are_heard_again_each_and_the_cache_keeps_all(corpus: Corpus) -> None:
    tokenizer = CountingTokenizer()
    predictor = Predictor(spoken_of(tokenizer), [ARTIFACT], window_seconds=0.5, copies=2)
    clip = str(corpus.utterances[0].audio)
    [first] = predictor.predict(clip)
    assert (first.window_count, len(first.windows), tokenizer.encoded) == (2, 2, 6)
    assert predictor.predict(clip) == [first]
    assert tokenizer.encoded == 6
    [alone] = Predictor(predictor.spoken_lm, [ARTIFACT], window_seconds=0.5).predict(clip)
    assert alone.unit_count == first.unit_count  # the units of the clip itself
    assert alone.slots["word"].scores != first.slots["word"].scores


def test_a_clip_too_short_to_hasten_is_heard_as_it_is_and_its_neighbours_are_not() -> None:
    random = np.random.default_rng(1)
    short, long = (random.standard_normal(n).astype(np.float32) * 0.1 for n in (161, 5000))
    predictor = Predictor(spoken_of(ToyTokenizer()), [ARTIFACT], copies=2)
    first, second = predictor.encode([short, long])
    assert first.copies[1.1] == first.windows
    assert second.copies[1.1] == (ToyTokenizer().encode(at_speed(long, 1.1)),)
    assert len(predictor.predict([short, long])) == 2


def test_a_copy_too_long_for_the_lm_is_the_clip_as_it_is_through_both_doors(corpus: Corpus) -> None:
    spoken = spoken_of(ToyTokenizer())
    predictor = Predictor(spoken, [ARTIFACT], copies=2)
    clips = predictor.encode([str(u.audio) for u in corpus.utterances])
    heard = next(one for one in clips if len(one.copies[0.9][0]) > one.unit_count)
    spoken.lm.max_units = heard.unit_count
    [answer] = predictor.answer([Question(heard, predictor.prompts.chosen()[0])])
    [plain] = heard.windows
    kept = [w if len(w) <= len(plain) else plain for w in (plain, *(c[0] for c in heard.copies.values()))]
    logs = torch.stack([scores_alone(spoken.lm, ARTIFACT.entry, w)["word"] for w in kept]).mean(0)
    row = next(u for u in corpus.utterances if str(u.audio) == heard.source)
    one = replace(corpus, utterances=(replace(row, split="test"),))
    [found] = evaluate(spoken, ARTIFACT, one, baselines=(), copies=2).rows
    torch.testing.assert_close(
        torch.tensor(found.slots["word"].scores), (logs / 1.7).softmax(-1), atol=1e-5, rtol=0
    )
    expected = (logs / 1.7).softmax(-1).tolist()
    assert list(answer.slots["word"].scores.values()) == pytest.approx(expected, abs=1e-5)


DECLARATION = """
seeds = 2
columns = ["n-gram", "n-gram copies", "prompt"]
[prompt]
steps = 3
evaluations = 1
prompt_length = 2
[[row]]
name = "once"
title = "heard once"
source = "noise.jsonl"
slots = ["word"]
lms = ["toy"]
[[row]]
name = "thrice"
title = "heard three times"
source = "noise.jsonl"
slots = ["word"]
lms = ["toy"]
[row.prompt]
speed_copies = 1
answer_copies = 2
"""


def test_a_table_answers_over_copies_and_gives_them_to_the_baseline_too(
    corpus: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    write_manifest(corpus, tmp_path / "data" / "noise.jsonl")
    (tmp_path / "table.toml").write_text(DECLARATION)
    once, thrice = table_of(another(tmp_path))
    assert (once.remark, thrice.remark) == ("", "")
    assert list(once.accuracy) == ["n-gram", "prompt"]
    assert list(thrice.accuracy) == ["n-gram", "n-gram copies", "prompt"]
    cells = thrice.facts["cells"]["prompt"]
    mean = np.mean([cell["without_copies_on_test"] for cell in cells])
    assert thrice.cells()[-1] == f"heard once: prompts {100 * mean:.1f}"
    assert once.cells()[-1] == ""
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| n-gram copies |" in text
    assert "prompt - n-gram copies, points" in text
    again = another(tmp_path)
    table_of(again)
    assert again.measured == 0
    audio = corpus.split("test")[0].audio
    assert audio is not None
    soundfile.write(audio, np.full(6360, 0.25), 8000, subtype="FLOAT")
    changed = another(tmp_path)
    table_of(changed)
    assert changed.measured > 0


def test_the_cells_of_a_table_are_what_prompts_and_ngrams_answer_over_copies(
    corpus: Corpus, tmp_path: Path
) -> None:
    spoken = spoken_of(ToyTokenizer())
    values = {"steps": 8, "evaluations": 2, "prompt_length": 2, "speed_copies": 2, "answer_copies": 2}
    options, copies = training_options(values, 0)
    whole = encode_corpus(corpus, spoken).corpus
    whole = with_speed_copies(whole, spoken, [options.copying]).corpus
    whole = with_speed_copies(whole, spoken, [AnswerCopies(copies)], splits=("valid", "test")).corpus
    one = Round(whole, Task.of_corpus(whole), 0, "seed0")
    train = Examples.to_train(one.task, one.rows("train"), options)
    valid = Examples.of(one.task, one.rows("valid"))
    lm, run = prompt_run(spoken.lm, one.task, options, train, valid)
    train_runs(lm, [run])
    scores = answer_scores(lm, run.entry, one.rows("test"), copies)["word"]
    cell = Measure("prompt", one, spoken, values, tmp_path).run(FeatureCache(), lambda *_: None)
    names = one.task.slots["word"]
    assert cell.predictions == tuple(names[i] for i in scores.argmax(1).tolist())
    asked = {name: values[name] for name in ("speed_copies", "answer_copies")}
    cell = Measure("n-gram copies", one, spoken, asked, tmp_path).run(FeatureCache(), lambda *_: None)
    learnt = [(u.units, u.labels["word"]) for u in one.rows("train")]
    learnt += [(x, u.labels["word"]) for u in one.rows("train") for x in u.speed_copies.values()]
    assert len(learnt) == 18
    svm = NgramBaseline().fit([x.ids.tolist() for x, _ in learnt if x], [label for _, label in learnt])
    heard = [[u.units, *u.speed_copies.values()] for u in one.rows("test")]
    means = [svm.predict([x.ids.tolist() for x in row if x]).scores.mean(0) for row in heard]
    assert {len(row) for row in heard} == {3}
    assert cell.predictions == tuple(sorted(names)[i] for i in np.argmax(means, 1))


def test_a_tables_trainings_know_nothing_of_the_copies_that_it_answers_over() -> None:
    """Cells are kept under what a row says, and calibrate for themselves."""
    asked, plain = (training_options(values, 3) for values in ({"answer_copies": 4}, {}))
    assert (asked.answer_copies, plain.answer_copies) == (4, 0)
    assert asked.options == plain.options
    few = training_options({"recipe": "few"}, 3)
    assert (few.answer_copies, few.options.answer_copies) == (FEW["answer_copies"], 0)
    assert training_options({"recipe": "few", "answer_copies": 0}, 3).answer_copies == 0
    assert asked.options.model_dump_json() == plain.options.model_dump_json()


def test_a_tables_network_trains_on_copies_and_answers_over_them(corpus: Corpus, tmp_path: Path) -> None:
    spoken = spoken_of(ToyTokenizer())
    sizes: dict[str, Any] = {"steps": 12, "widths": [8], "dropouts": [0.1], "unit_dropouts": [0.0]}
    values = {**sizes, "speed_copies": 2, "answer_copies": 2}
    asked = hearing_options("cnn", values)
    whole = encode_corpus(corpus, spoken).corpus
    whole = with_speed_copies(whole, spoken, [asked.options.copying]).corpus
    whole = with_speed_copies(whole, spoken, [AnswerCopies(2)], splits=("test",)).corpus
    one = Round(whole, Task.of_corpus(whole), 0, "seed0")
    train = Examples.to_train(one.task, one.rows("train"), asked.options)
    assert len(train) == 3 * len(one.rows("train"))
    names, counts = one.task.slots["word"], [len(one.task.slots["word"])]
    valid = Examples.of(one.task, one.rows("valid"))
    model = train_cnn(train, valid, counts, cnn_options(values), 0, lambda *_: None).model
    heard = [[x for x in (u.units, *u.speed_copies.values()) if x] for u in one.rows("test")]
    means = [torch.stack([log_probabilities(model, [x])[0][0] for x in row]).mean(0) for row in heard]
    measures = {
        name: Measure("cnn", one, spoken, options, tmp_path)
        for name, options in (("copies", values), ("once", sizes))
    }
    cell = measures["copies"].run(FeatureCache(), lambda *_: None)
    assert cell.predictions == tuple(names[int(mean.argmax())] for mean in means)
    assert measures["copies"].key != measures["once"].key


@pytest.mark.parametrize("copies", [1, -2, "two"])
def test_a_table_refuses_copies_that_cannot_be(corpus: Corpus, tmp_path: Path, copies: object) -> None:
    (tmp_path / "data").mkdir()
    write_manifest(corpus, tmp_path / "data" / "noise.jsonl")
    (tmp_path / "table.toml").write_text(
        DECLARATION.replace("answer_copies = 2", f"answer_copies = {copies!r}")
    )
    with pytest.raises(UsageError, match="number of copies"):
        table_of(another(tmp_path))


def test_copies_are_part_of_what_a_cached_clip_is(corpus: Corpus) -> None:
    """A predictor without copies takes the plain units that one with copies left, and nothing else."""
    tokenizer = CountingTokenizer()
    spoken = spoken_of(tokenizer)
    several = Predictor(spoken, [ARTIFACT], copies=2)
    clip = str(corpus.utterances[1].audio)
    several.predict(clip)
    single = Predictor(spoken, [ARTIFACT], cache=several.encoder.cache)
    [heard] = single.encode([clip])
    assert (tokenizer.encoded, heard.copies) == (3, {})
    assert heard.windows == (ToyTokenizer().encode(read_waveform(clip, 8000, None, None)[0]),)


def units_of(corpus: Corpus) -> list[Units]:
    return [u.units for u in corpus.utterances if u.units is not None]


def test_training_hears_nothing_of_it(corpus: Corpus) -> None:
    spoken = spoken_of(ToyTokenizer())
    plain = encode_corpus(corpus, spoken).corpus
    heard = with_answer_copies(plain, spoken, "test", 2)
    assert units_of(heard) == units_of(plain)
    assert [replace(u, speed_copies={}) for u in heard.utterances] == list(plain.utterances)
