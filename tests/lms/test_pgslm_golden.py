"""The reference's numbers for pGSLM: streams, states, the logits of three streams, losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from golden_cases import assert_golden
from speechprompt.lms.batch import collate
from speechprompt.lms.pgslm import PgslmForCausalLM
from speechprompt.lms.pgslm_fairseq import load_pgslm
from speechprompt.lms.pgslm_streams import Streams, stream_losses, streams_of
from speechprompt.lms.pgslm_units import PgslmUnitLM
from speechprompt.speech.units import Units
from speechprompt.tokenizers.prosody import normalised_log_f0

pytestmark = pytest.mark.golden

THEIRS = {"units": ("src_tokens", "target", "mask"), "duration": ("dur_src", "dur_target", "dur_mask")}
THEIRS["f0"] = ("f0_src", "f0_target", "f0_mask")
LOG_F0_MEAN = 5.15


class Case:
    """The folder, its numbers and its model."""

    def __init__(self, shared: Path, name: str = "p_pgslm_discrete") -> None:
        folder = shared / "golden" / name
        self.numbers = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(folder / "golden.npz").items()}
        self.model: PgslmForCausalLM = load_pgslm(folder / "pgslm_checkpoint.pt", folder / "f0_bins_32.npy")

    def streams(self) -> Streams:
        """The reference's own streams."""
        source, target, masked = (
            {name: self.numbers[keys[i]] for name, keys in THEIRS.items()} for i in range(3)
        )
        return Streams(source, target, masked, self.numbers["src_lengths"])

    def valid(self) -> torch.Tensor:
        return torch.arange(self.numbers["src_tokens"].shape[1]) < self.numbers["src_lengths"][:, None]

    def raw(self) -> list[Units]:
        """The utterances whose raw streams are recorded, without the end symbol that closes each."""
        rows = []
        while f"raw/{len(rows)}/code" in self.numbers:
            code, duration, f0 = (
                self.numbers[f"raw/{len(rows)}/{name}"][:-1].numpy() for name in ("code", "dur", "f0")
            )
            rows.append(Units(code, duration.astype(np.int64), normalised_log_f0(f0, LOG_F0_MEAN)))
        return rows


def test_raw_streams_become_the_references_streams(shared: Path) -> None:
    case = Case(shared)
    ours, theirs = streams_of(case.model.config, collate(case.raw())), case.streams()
    rows, width = ours.source["units"].shape
    assert rows == 3
    for part in ("source", "target", "masked"):
        for name in THEIRS:
            mine, reference = getattr(ours, part)[name], getattr(theirs, part)[name][:rows, :width]
            assert torch.equal(mine, reference), (part, name)
    assert torch.equal(ours.lengths, theirs.lengths[:rows])


@torch.no_grad()
def test_states_logits_and_losses(shared: Path) -> None:
    case = Case(shared)
    streams, valid = case.streams(), case.valid()
    rows = streams.source
    out = case.model(rows["units"], rows["duration"], rows["f0"], valid.long(), output_hidden_states=True)
    for i in range(case.model.config.num_hidden_layers):
        assert_golden(out.hidden_states[i][valid], case.numbers[f"hidden/{i}"][valid])
    logits = {"units": out.logits, "duration": out.duration_logits, "f0": out.f0_logits}
    for name, key in (("units", "token"), ("duration", "duration"), ("f0", "f0")):
        assert_golden(logits[name][valid], case.numbers[f"out/{key}"][valid])
    losses = stream_losses(case.model.config, logits, streams)
    assert_golden(losses.total, case.numbers["loss_sum"])
    assert_golden(losses.units, case.numbers["token_loss"])
    assert_golden(losses.duration, case.numbers["dur_loss"])
    assert_golden(losses.f0, case.numbers["f0_loss"])
    assert losses.rows == int(case.numbers["ntokens"]) == int(case.numbers["sample_size"])


@torch.no_grad()
def test_the_unit_lm_reads_the_same_rows(shared: Path) -> None:
    """Units with durations and F0 through the adapter: the reference's states and logits at every unit."""
    case = Case(shared)
    lm = PgslmUnitLM(case.model)
    batch = collate(case.raw())
    states = lm.states(batch, None, None)
    width = states[0].shape[1]
    valid = (torch.arange(width) <= batch.lengths[:, None]) & case.valid()[:3, :width]
    for i in range(lm.layers + 1):
        assert_golden(states[i][valid], case.numbers[f"hidden/{i}"][:3, :width][valid])
    heads = lm.heads_of(states[-1])
    assert set(heads) == {"units", "duration", "f0"}
    assert_golden(heads["f0"][valid], case.numbers["out/f0"][:3, :width][valid])
