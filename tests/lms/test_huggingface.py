"""Any causal LM as a unit LM: rows stand alone, prefixes shift nothing, folders and artifacts round-trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    XGLMConfig,
    XGLMForCausalLM,
)

from speechprompt.errors import CheckpointError, UnitsError, UsageError
from speechprompt.lms.batch import collate
from speechprompt.lms.huggingface import HuggingFaceUnitLM
from speechprompt.lms.prefix import stack_prefixes
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.train import train
from speechprompt.prompting.training import train_step
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import UNIT_COUNT, ToyTokenizer
from toys import CORPUS, entry_of, run_of, scores, scores_alone, some_units, with_garbage

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
MORE = {"intermediate_size": 24, "num_key_value_heads": 2, "max_position_embeddings": 64}
SPECIALS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MODELS = {
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            **SIZES, **SPECIALS, ffn_dim=24, word_embed_proj_dim=16, max_position_embeddings=64, dropout=0.1
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=30, n_embd=16, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1
        )
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **MORE, **SPECIALS)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **MORE, **SPECIALS)),
}
METHODS = ("after_projection", "input")
LMS: dict[str, HuggingFaceUnitLM] = {}


def lm_of(name: str, fresh: bool = False) -> HuggingFaceUnitLM:
    """A random LM whose units are not its first ids, nor in order."""
    if fresh or name not in LMS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = MODELS[name]()
            for parameter in model.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
        lm = HuggingFaceUnitLM(model, [29 - i for i in range(UNIT_COUNT)], 1, 0, max_units=40)
        if fresh:
            return lm
        LMS[name] = lm
    return LMS[name]


def logits_of(lm: HuggingFaceUnitLM, hidden: Tensor) -> Tensor:
    return lm.heads_of(hidden)["units"]


@pytest.mark.parametrize("name", MODELS)
def test_is_a_unit_lm_and_without_a_prompt_is_the_model(name: str) -> None:
    lm, separator = lm_of(name), torch.randn(1, 16)
    assert isinstance(lm, UnitLM)
    units = some_units([6])
    with torch.no_grad():
        ids = torch.cat([torch.tensor([1]), lm.lm_ids(torch.from_numpy(units[0].ids))])[None]
        rows = torch.cat([lm.embedding(ids), separator[None]], 1)
        expected = lm.model(inputs_embeds=rows).logits
        for prefixes in (None, stack_prefixes([torch.zeros(2, 2, lm.kv_heads, 0, 4)], torch.zeros(1).long())):
            ours = logits_of(lm, lm.forward(collate(units), prefixes, separator, before=7))
            assert torch.equal(ours, expected)
        bare = lm.model(input_ids=ids).logits[:, 1:]
        assert torch.allclose(logits_of(lm, lm.unit_states(collate(units))), bare, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        lambda: GemmaForCausalLM(GemmaConfig(**SIZES, **MORE, **SPECIALS, head_dim=4)),
        lambda: XGLMForCausalLM(
            XGLMConfig(
                vocab_size=30,
                d_model=16,
                num_layers=2,
                attention_heads=4,
                ffn_dim=24,
                max_position_embeddings=64,
            )
        ),
    ],
    ids=["gemma", "xglm"],
)
def test_embeddings_that_are_scaled_inside_are_scaled(model: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = HuggingFaceUnitLM(model(), range(5, 15), start_id=1, separator_id=2, max_units=40)
    units = some_units([6])[0]
    units = Units(units.ids % 10)
    ids = torch.cat([torch.tensor([1]), lm.lm_ids(torch.from_numpy(units.ids))])[None]
    with torch.no_grad():
        expected = lm.model.base_model(input_ids=ids).last_hidden_state[:, 1:]
        torch.testing.assert_close(lm.unit_states(collate([units])), expected, atol=1e-6, rtol=0)
        separator = lm.embedding(torch.tensor([2]))
        ids = torch.cat([ids, torch.tensor([[2]])], 1)
        expected = lm.model.base_model(input_ids=ids).last_hidden_state[:, -1:]
        ours = lm.forward(collate([units]), None, separator)
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_the_start_may_share_the_separator_s_id() -> None:
    lm, units = lm_of("llama"), some_units([5])
    shared = HuggingFaceUnitLM(lm.model, [29 - i for i in range(UNIT_COUNT)], 1, 1, max_units=40)
    with torch.no_grad():
        expected, found = (one.forward(collate(units), None, torch.ones(1, 16)) for one in (lm, shared))
    assert torch.equal(expected, found)


@settings(max_examples=5, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", MODELS)
def test_scores_alone_equal_scores_in_any_batch(name: str, data: st.DataObject) -> None:
    lm = lm_of(name)
    kinds = st.fixed_dictionaries(
        {
            "method": st.sampled_from(METHODS),
            "prompt_length": st.integers(0, 5),
            "shifts_positions": st.booleans(),
            "decoding": st.sampled_from(["parallel", "autoregressive"]),
            "verbalizer": st.sampled_from(["random", "learnable"]),
            "initialisation": st.sampled_from(["units", "normal"]),
        }
    )
    entries = [entry_of(lm, **kind) for kind in data.draw(st.lists(kinds, min_size=1, max_size=3))]
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    rows = data.draw(st.lists(st.integers(0, len(entries) - 1), min_size=len(lengths), max_size=len(lengths)))
    units = some_units(lengths)
    together = scores(lm, entries, with_garbage(collate(units), 10**6, 2), torch.tensor(rows))
    for row, k in enumerate(rows):
        for slot, values in scores_alone(lm, entries[k], units[row]).items():
            torch.testing.assert_close(together[row][slot], values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_shifted_prefix_of_real_units_is_those_units(name: str) -> None:
    """Keys and values of units in front, with positions moved: the same as the longer utterance."""
    lm, separator = lm_of(name), torch.randn(1, 16)
    front, back = some_units([4, 5])
    ids = torch.tensor([1, *lm.lm_ids(torch.from_numpy(front.ids)).tolist()])
    with torch.no_grad():
        prefix = lm.input_prefix(lm.embedding(ids))
        prefixes = stack_prefixes([prefix], torch.zeros(1).long(), [True])
        rows = torch.cat([ids, torch.tensor([1]), lm.lm_ids(torch.from_numpy(back.ids))])
        whole = lm.model(inputs_embeds=torch.cat([lm.embedding(rows), separator])[None]).logits[:, -1]
        ours = logits_of(lm, lm.forward(collate([back]), prefixes, separator))[:, 0]
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=0)
    with torch.no_grad():
        states = lm.unit_key_values(collate([front]))[:, :, 0]
    torch.testing.assert_close(states, prefix[..., 1:, :], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "method", "recipe"),
    [
        *((name, "after_projection", "default") for name in MODELS),
        ("gpt2", "input", "default"),
        ("llama", "after_projection", "paper"),
        ("opt", "input", "paper"),
    ],
)
def test_training_changes_what_trains_and_lowers_the_loss(name: str, method: str, recipe: str) -> None:
    lm = lm_of(name)
    before = {key: tensor.clone() for key, tensor in lm.model.state_dict().items()}
    changes = {"learning_rate": 0.02, "batch_size": 36, "prompt_dropout": 0.0, "verbalizer_dropout": 0.0}
    run = run_of(lm, recipe=recipe, method=method, steps=100, **changes)
    start = {key: p.detach().clone() for key, p in run.entry.named_parameters()}
    losses = [train_step(lm, [run])[0][1] for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(not torch.equal(p, start[key]) for key, p in run.entry.named_parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in lm.model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_close_and_keeps_the_fingerprint(name: str) -> None:
    lm = lm_of(name, fresh=True)
    entry, units = entry_of(lm, method="after_projection"), some_units([9])[0]
    expected, fingerprint = scores_alone(lm, entry, units), lm.fingerprint
    lm.to(dtype=torch.bfloat16)
    assert lm.fingerprint == fingerprint == lm_of(name).fingerprint
    for slot, values in scores_alone(lm, entry, units).items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, expected[slot], atol=0.1, rtol=0)
    assert train_step(lm, [run_of(lm, method="after_projection")])[0][1] > 0


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_rotary_frequencies_stay_exact_in_bfloat16(name: str) -> None:
    lm = lm_of(name, fresh=True)
    before = {k: x.clone() for k, x in lm.model.named_buffers() if k.endswith("inv_freq")}
    lm.to(dtype=torch.bfloat16)
    after = dict(lm.model.named_buffers())
    assert before
    assert all(torch.equal(after[k], x) for k, x in before.items())
    assert {p.dtype for p in lm.model.parameters()} == {torch.bfloat16}


def test_prompts_before_the_projections_are_refused_with_the_way_out() -> None:
    lm = lm_of("llama")
    for initialisation in ("units", "normal"):
        with pytest.raises(UsageError, match="--method after_projection"):
            Bank([entry_of(lm, method="before_projection", initialisation=initialisation)]).fold(lm)


def test_ids_that_contradict_the_model_are_refused() -> None:
    model = lm_of("llama").model
    for arguments in (
        ([5, 5, 6], 1, 0, 10),
        ([5, 6, 0], 1, 0, 10),
        ([5, 6, 1], 1, 0, 10),
        ([5, 6, 99], 1, 0, 10),
        ([5, 6, -1], 1, 0, 10),
        ([5, 6], 1, 0, 63),
    ):
        with pytest.raises(UsageError):
            HuggingFaceUnitLM(model, *arguments)


def test_units_outside_the_lm_and_too_many_of_them() -> None:
    lm = lm_of("gpt2")
    entry = entry_of(lm, method="after_projection", shifts_positions=True, prompt_length=30)
    with pytest.raises(UnitsError, match="limit of 40"):
        scores_alone(lm, entry, some_units([41])[0])
    with pytest.raises(UnitsError, match="64 positions"):
        scores_alone(lm, entry, some_units([40])[0])
    with pytest.raises(UnitsError, match="not among the 20 units"):
        lm.lm_ids(torch.tensor([20]))


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_gives_the_same_lm_and_artifact(name: str, tmp_path: Path) -> None:
    lm_of(name).save_pretrained(tmp_path / "lm")
    about = {"schema": 1, "name": "other", "version": 3, "license": "MIT", "tokenizer": "toy", "lm": "lm"}
    (tmp_path / "spoken_lm.json").write_text(json.dumps(about))
    spoken = SpokenLM.load(tmp_path)
    assert isinstance(spoken.lm, HuggingFaceUnitLM)
    assert spoken.lm.fingerprint == lm_of(name).fingerprint
    options = TrainingOptions(method="after_projection", steps=4, evaluations=1, prompt_length=2)
    artifact = train(CORPUS, spoken, ["word"], options)
    artifact.save(tmp_path / "prompt")
    again = Artifact.load(tmp_path / "prompt", SpokenLM.of_parts("other@3", ToyTokenizer(), lm_of(name)))
    units = some_units([7])[0]
    ours, theirs = (scores_alone(spoken.lm, a.entry, units)["word"] for a in (artifact, again))
    assert torch.equal(ours, theirs)


def test_a_folder_s_own_code_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lm"
    lm_of("qwen2").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(CheckpointError, match="does not hold"):
        HuggingFaceUnitLM.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "lm"
    lm_of("qwen2").save_pretrained(folder)
    good = json.loads((folder / "units.json").read_text())
    hostile = [
        {**good, "unit_ids": value} for value in ([], [1], [-4, 5], [5, 10**30], "abc", [5, 5], [5.5, 6])
    ]
    hostile += [{**good, "max_units": 0}, {**good, "max_units": 10**9}, {**good, "more": 1}, {}, [], None]
    for content in hostile:
        (folder / "units.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="lm"):
            HuggingFaceUnitLM.from_pretrained(folder)
    (folder / "units.json").unlink()
    with pytest.raises(CheckpointError, match=r"units\.json"):
        HuggingFaceUnitLM.from_pretrained(folder)
    (folder / "units.json").write_text(json.dumps(good))
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[1:]), weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks weights"):
        HuggingFaceUnitLM.from_pretrained(folder)
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="does not hold a causal LM"):
        HuggingFaceUnitLM.from_pretrained(folder)
