"""When to trust an answer: abstention that keeps its promise on validation, distances that know strangers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import ArtifactError, UsageError
from speechprompt.prompting.artifact import CONFIG, TENSORS, Artifact
from speechprompt.prompting.domain import Domain, fit_domain
from speechprompt.prompting.predictor import Predictor
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.train import train
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus, toy_lm

SPOKEN = SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm())
SHORT = TrainingOptions(steps=40, evaluations=2, batch_size=16, prompt_length=2)


@pytest.fixture(scope="module")
def careful() -> Artifact:
    options = SHORT.model_copy(update={"answer_coverage": 0.6})
    return train(toy_corpus(250), SPOKEN, ["word"], options)


def test_a_stated_coverage_holds_on_validation(careful: Artifact) -> None:
    numbers = careful.metrics["trust"]
    assert numbers["coverage"] == pytest.approx(0.6, abs=0.03)
    assert 0 < careful.config.threshold < 1
    assert careful.config.threshold == numbers["threshold"]
    assert numbers["calibration_error"] <= numbers["calibration_error_before"] + 0.1


def test_a_stated_error_holds_on_validation() -> None:
    options = SHORT.model_copy(update={"answer_error": 0.1})
    numbers = train(toy_corpus(250), SPOKEN, ["word"], options).metrics["trust"]
    assert numbers["error_among_answers"] is None or numbers["error_among_answers"] <= 0.1
    with pytest.raises(UsageError, match="not both"):
        TrainingOptions.of_recipe("default", {"answer_error": 0.1, "answer_coverage": 0.9})


def test_a_domain_survives_saving_and_reaches_predictions(careful: Artifact, tmp_path: Path) -> None:
    assert careful.domain is not None
    folder = careful.save(tmp_path / "word")
    loaded = Artifact.load(folder, SPOKEN)
    states = torch.randn(5, 16)
    assert loaded.domain is not None
    assert torch.equal(loaded.domain.distances(states), careful.domain.distances(states))
    assert torch.equal(loaded.entry.prompt.vectors, careful.entry.prompt.vectors)
    clip = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.2
    predictor = Predictor(SPOKEN, [folder], window_seconds=0.7)
    [found] = predictor.predict(clip)
    assert found.out_of_domain is not None
    assert found.window_count == len(found.windows) == 3
    assert [window.start_seconds for window in found.windows] == pytest.approx([0, 2 / 3, 4 / 3])
    assert found.windows[-1].end_seconds == found.duration_seconds == 2.0
    assert found.out_of_domain == pytest.approx(np.mean([w.out_of_domain for w in found.windows]))
    for window, part in zip(found.windows, np.array_split(clip, 3), strict=True):
        alone = predictor.predict(part)[0]
        assert alone.slots["word"].label == window.labels["word"]
        assert alone.slots["word"].score == pytest.approx(window.scores["word"], abs=1e-5)
        assert alone.windows == ()


def test_a_loaded_prompt_keeps_no_more_than_its_own_bytes(careful: Artifact, tmp_path: Path) -> None:
    """A tensor of a safetensors file may keep the whole file in memory."""
    prompt = Predictor(SPOKEN, [careful.save(tmp_path / "word")]).prompts["word"].prompt
    assert prompt.domain is not None
    kept = [prompt.keys_values, prompt.separator, *prompt.verbalizer.state_dict().values()]
    for tensor in [*kept, prompt.domain.means, prompt.domain.directions, prompt.domain.variances]:
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert prompt.size_bytes == sum(tensor.untyped_storage().nbytes() for tensor in kept)


def test_a_domain_goes_where_the_states_are(careful: Artifact) -> None:
    assert careful.domain is not None
    moved = careful.domain.to("meta")
    assert moved.distances(torch.zeros(3, moved.means.shape[1], device="meta")).device.type == "meta"


def test_an_artifact_of_before_has_no_domain_and_answers(careful: Artifact, tmp_path: Path) -> None:
    folder = Artifact(careful.config, careful.entry).save(tmp_path / "old")
    text = (folder / CONFIG).read_text()
    assert "domain" not in text
    loaded = Artifact.load(folder, SPOKEN)
    assert loaded.domain is None
    clip = np.random.default_rng(0).standard_normal(8_000).astype(np.float32)
    assert Predictor(SPOKEN, [loaded]).predict(clip)[0].out_of_domain is None


@pytest.mark.parametrize("change", ["missing", "width", "negative", "nan"])
def test_a_damaged_domain_is_refused(careful: Artifact, tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = careful.save(tmp_path / "word")
    tensors = load_file(folder / TENSORS)
    if change == "missing":
        del tensors["domain.limit"]
    elif change == "width":
        tensors["domain.means"] = tensors["domain.means"][:, 1:].contiguous()
    elif change == "negative":
        tensors["domain.variances"] = -tensors["domain.variances"]
    else:
        tensors["domain.directions"] = tensors["domain.directions"] * float("nan")
    save_file(tensors, folder / TENSORS)
    with pytest.raises(ArtifactError, match=r"prompt\.safetensors") as error:
        Artifact.load(folder, SPOKEN)
    assert "\n" not in str(error.value)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 40), st.integers(1, 40))
def test_strangers_are_further_than_acquaintances(seed: int, width: int, groups: int) -> None:
    """States near their group's mean, of unequal spread; strangers leave the subspace that training spans."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.cat([torch.full((width - 1,), 1.0), torch.tensor([0.05])])
    means = 3 * torch.randn(groups, width, generator=generator) * spread
    place = torch.arange(240) % groups

    def draw() -> torch.Tensor:
        return means[place] + spread * torch.randn(240, width, generator=generator)

    domain = fit_domain(draw(), place, draw())
    assert domain is not None
    known = domain.distances(draw())
    assert float((known > 1).float().mean()) < 0.2
    strange = draw()
    strange[:, -1] += 10
    assert float(domain.distances(strange).min()) > float(known.median())
    assert fit_domain(draw()[:20], place[:20], draw()) is None
    again = Domain.of_tensors(domain.tensors(), width)
    assert torch.equal(again.distances(strange), domain.distances(strange))
