"""GSLM as a transformers model and as a unit LM: folders, generation, fairseq files."""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from speechprompt.errors import CheckpointError, UnitsError
from speechprompt.lms.batch import collate
from speechprompt.lms.fairseq import load_gslm
from speechprompt.lms.gslm import GslmForCausalLM
from speechprompt.lms.gslm_modules import GslmModules
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.lms.prefix import attention_mask, stack_prefixes
from speechprompt.lms.protocol import UnitLM
from speechprompt.testing import UNIT_COUNT, toy_lm
from toys import some_units, with_garbage

LM = toy_lm()


def test_a_saved_folder_gives_the_same_model(tmp_path: Path) -> None:
    assert isinstance(LM, UnitLM)
    LM.model.save_pretrained(tmp_path)
    ids = torch.randint(0, 24, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = LM.model(ids).logits
        for loader in (AutoModelForCausalLM, GslmForCausalLM):
            assert torch.equal(loader.from_pretrained(tmp_path)(ids).logits, expected)
    loaded = GslmUnitLM.from_pretrained(tmp_path)
    assert loaded.fingerprint == LM.fingerprint
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_folder_reads_without_transformers_and_becomes_its_model(tmp_path: Path) -> None:
    LM.model.save_pretrained(tmp_path)
    plain = GslmUnitLM.from_pretrained(tmp_path)
    assert isinstance(plain.model, GslmModules)
    ids = torch.randint(4, 24, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain.pretrained()(ids).logits, LM.model(ids).logits)
    batch, separators = collate(some_units([4, 9])), torch.randn(2, 16)
    assert torch.equal(plain.forward(batch, None, separators), LM.forward(batch, None, separators))
    generated = plain.pretrained().generate(ids, max_new_tokens=3, do_sample=False)
    assert torch.equal(generated, LM.model.generate(ids, max_new_tokens=3, do_sample=False))
    plain.pretrained().save_pretrained(tmp_path / "again")
    assert GslmUnitLM.from_pretrained(tmp_path / "again").fingerprint == LM.fingerprint
    assert LM.pretrained() is LM.model


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda t: without(t, "embed_tokens.weight"), "lacks weights embed_tokens.weight"),
        (lambda t: t | {"more": torch.zeros(1)}, "has unknown weights more"),
        (lambda t: t | {"decoder.layers.0.fc1.bias": torch.zeros(3)}, "does not hold a GSLM"),
    ],
)
def test_a_folder_with_other_weights_is_an_error_of_one_line(tmp_path: Path, change: Any, hint: str) -> None:
    LM.model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(CheckpointError, match=hint) as error:
        GslmUnitLM.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="does not hold a GSLM"):
        GslmUnitLM.from_pretrained(tmp_path)


def test_fingerprints_tell_weights_and_dictionaries_apart() -> None:
    def fingerprint(change: Any) -> str:
        lm = toy_lm()
        change(lm.model)
        return GslmUnitLM(lm.model).fingerprint

    symbols = [str(i) for i in reversed(range(UNIT_COUNT))]
    found = {
        fingerprint(lambda model: None),
        fingerprint(lambda model: setattr(model.config, "symbols", symbols)),
        fingerprint(lambda model: model.decoder.layers[1].fc2.bias.data.add_(1e-6)),
    }
    assert len(found) == 3
    assert LM.fingerprint in found


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4), steps=st.integers(1, 6))
def test_generation_in_a_padded_batch_is_that_of_each_alone(lengths: list[int], steps: int) -> None:
    rows = [torch.tensor([2, *(row.ids + 4).tolist()]) for row in some_units(lengths)]
    width = max(map(len, rows))
    ids = torch.stack([torch.cat([torch.ones(width - len(row)).long(), row]) for row in rows])
    arguments = {"max_new_tokens": steps, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    together = LM.model.generate(ids, attention_mask=(ids != 1).long(), **arguments)
    for i, row in enumerate(rows):
        alone = LM.model.generate(row[None], attention_mask=torch.ones_like(row)[None], **arguments)
        assert together[i, width:].tolist() == alone[0, len(row) :].tolist()


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    before=st.integers(0, 1),
    j=st.integers(0, 3),
)
def test_forward_gives_the_rows_around_the_separator(lengths: list[int], before: int, j: int) -> None:
    units, separators = some_units(lengths), torch.randn(len(lengths), 16)
    answers = torch.randint(4, 24, (len(lengths), j))
    batch = with_garbage(collate(units), -7, 2).with_answers(answers)
    hidden = LM.forward(batch, None, separators, before)
    states = LM.states(batch, None, separators)[-1]
    assert hidden.shape == (len(lengths), before + 1 + j, 16)
    for i, n in enumerate(lengths):
        torch.testing.assert_close(hidden[i], states[i, n + 1 - before : n + 2 + j], atol=1e-5, rtol=0)


def test_states_of_units_are_their_keys_and_values() -> None:
    batch = collate(some_units([4, 9]))
    inputs = LM.key_value_inputs(batch)
    both = LM.unit_key_values(batch)
    assert both.shape == (2, 2, 2, 2, 9, 8)
    for row in range(2):
        projected = LM.project_prefix(inputs[:, row], inputs[:, row])
        torch.testing.assert_close(both[:, :, row], projected, atol=1e-5, rtol=0)


def test_units_that_the_lm_cannot_read() -> None:
    for unit in (-1, UNIT_COUNT):
        with pytest.raises(UnitsError, match="not among the 20 units"):
            LM.lm_ids(torch.tensor([3, unit]))
    with pytest.raises(UnitsError, match="limit of 512"):
        LM.forward(collate(some_units([513])), None, torch.zeros(1, 16))
    assert LM.forward(collate(some_units([512])), None, torch.zeros(1, 16)).isfinite().all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(1, 6), st.data())
@settings(max_examples=40, deadline=None)
def test_masks_let_a_row_see_its_own_prefix_and_its_past(
    lengths: list[int], width: int, data: st.DataObject
) -> None:
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=4)))
    prefixes = stack_prefixes([torch.randn(1, 2, 1, n, 4) for n in lengths], rows)
    mask = attention_mask(torch.arange(width), width, prefixes)
    longest = max(lengths)
    if mask is None:
        assert longest == 0
        return
    mask = mask.expand(len(rows), 1, width, longest + width)
    for b, k in enumerate(rows.tolist()):
        for q in range(width):
            seen = mask[b, 0, q].nonzero()[:, 0].tolist()
            assert seen == [*range(longest - lengths[k], longest), *range(longest, longest + q + 1)]


# --- fairseq's files


def fairseq_tensors(prefix: str = "") -> dict[str, Tensor]:
    names = {
        "embed_tokens.weight": "decoder.embed_tokens.weight",
        "output_projection.weight": "decoder.output_projection.weight",
    }
    tensors = {prefix + names.get(k, k): v.clone() for k, v in LM.model.state_dict().items()}
    tensors[prefix + "decoder.version"] = torch.tensor([3.0])
    tensors[prefix + "decoder.embed_positions._float_tensor"] = torch.zeros(1)
    return tensors


def write(folder: Path, tree: Any, symbols: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(tree, folder / "checkpoint_best.pt")
    symbols = symbols or [str(i) for i in range(UNIT_COUNT)]
    (folder / "dict.txt").write_text("".join(f"{symbol} {100 - i}\n" for i, symbol in enumerate(symbols)))
    return folder


OLD = {"args": argparse.Namespace(decoder_attention_heads=2, arch="transformer_lm_big"), "cfg": None}
NEW = {"args": None, "cfg": {"model": {"_name": "transformer_lm", "decoder_attention_heads": 2}}}
MIXED = {"cfg": {"model": argparse.Namespace(decoder_attention_heads=2)}}


def same(model: GslmForCausalLM, within: float = 0) -> None:
    for name, tensor in LM.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=within, rtol=within)
    assert model.config.num_attention_heads == 2


@pytest.mark.parametrize("options", [OLD, NEW, MIXED], ids=["args", "cfg", "cfg with namespace"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_layouts_are_read(tmp_path: Path, options: dict[str, Any], prefix: str) -> None:
    folder = write(tmp_path / "lm", {**options, "model": fairseq_tensors(prefix)})
    same(load_gslm(folder))
    same(load_gslm(folder / "checkpoint_best.pt"))
    assert GslmUnitLM(load_gslm(folder)).fingerprint == LM.fingerprint


def test_half_precision_and_no_output_matrix(tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in fairseq_tensors().items()}
    del tensors["decoder.output_projection.weight"]
    model = load_gslm(write(tmp_path / "lm", {**NEW, "model": tensors}))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    same(model, within=2e-3)


@pytest.mark.parametrize("name", ["lm.tgz", "lm.tar.gz", "lm.tar"])
def test_archives_are_read(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "lm", {**OLD, "model": fairseq_tensors()})
    with tarfile.open(tmp_path / name, "w" if name.endswith("tar") else "w:gz") as archive:
        for part in ("dict.txt", "checkpoint_best.pt"):
            archive.add(folder / part, f"hubert100_lm/{part}")
    same(load_gslm(tmp_path / name))


def test_a_shuffled_dictionary_moves_the_units(tmp_path: Path) -> None:
    order = torch.randperm(UNIT_COUNT, generator=torch.Generator().manual_seed(0)).tolist()
    symbols = [str(unit) for unit in order]
    folder = write(tmp_path / "lm", {**OLD, "model": fairseq_tensors()}, symbols)
    lm = GslmUnitLM(load_gslm(folder))
    assert lm.lm_ids(torch.tensor(order)).tolist() == list(range(4, 4 + UNIT_COUNT))
    assert lm.fingerprint != LM.fingerprint
    lm.model.save_pretrained(tmp_path / "saved")
    again = GslmUnitLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.lm_ids(torch.arange(UNIT_COUNT)), lm.lm_ids(torch.arange(UNIT_COUNT)))


def damaged(name: str) -> tuple[Any, list[str] | None]:
    tensors, symbols = fairseq_tensors(), None
    tree: Any = {**NEW, "model": tensors}
    weight = "decoder.layers.1.fc1.weight"
    if name == "no model":
        tree = {"cfg": {}}
    elif name == "a list":
        tree = [tensors]
    elif name == "no embeddings":
        del tensors["decoder.embed_tokens.weight"]
    elif name == "missing tensor":
        del tensors[weight]
    elif name == "wrong shape":
        tensors[weight] = torch.zeros(3, 3)
    elif name == "extra tensor":
        tensors["decoder.layers.1.encoder_attn.k_proj.weight"] = torch.zeros(1)
    elif name == "layers with gaps":
        tensors["decoder.layers.1000000000.fc1.weight"] = torch.zeros(1)
    elif name == "untied":
        tensors["decoder.output_projection.weight"] = torch.zeros(24, 16)
    elif name == "heads":
        tree = {"cfg": {"model": {"decoder_attention_heads": 3}}, "model": tensors}
    elif name == "no heads":
        tree = {"cfg": {"model": {"decoder_attention_heads": 0}}, "model": tensors}
    else:
        symbols = [str(i) for i in range(7)]
    return tree, symbols


DAMAGE = ["no model", "a list", "no embeddings", "missing tensor", "wrong shape", "extra tensor"]
DAMAGE += ["layers with gaps", "untied", "heads", "no heads", "short dictionary"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_a_gslm_is_an_error_of_one_line(tmp_path: Path, damage: str) -> None:
    folder = write(tmp_path / "lm", *damaged(damage))
    with pytest.raises(CheckpointError, match=r"checkpoint_best\.pt") as error:
        load_gslm(folder)
    assert "\n" not in str(error.value)


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "lm", {**OLD, "model": fairseq_tensors()})
    content = (folder / "checkpoint_best.pt").read_bytes()
    for kept in (0, 10, len(content) // 2, len(content) - 20):
        (folder / "checkpoint_best.pt").write_bytes(content[:kept])
        with pytest.raises(CheckpointError):
            load_gslm(folder)
    (folder / "checkpoint_best.pt").unlink()
    with pytest.raises(CheckpointError):
        load_gslm(folder)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("dict.txt"))
    (tmp_path / "lm.tar").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError):
        load_gslm(tmp_path / "lm.tar")
