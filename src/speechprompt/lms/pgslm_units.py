"""pGSLM as a unit LM: units with durations and F0, and what prosody the rows behind an utterance carry."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from speechprompt.errors import CheckpointError, UnitsError, UnknownName
from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.decoder_units import DecoderUnitLM
from speechprompt.lms.folders import read_model
from speechprompt.lms.pgslm import PgslmForCausalLM
from speechprompt.lms.pgslm_streams import read_durations, read_f0, shifted, stream_ends, within

SeparatorProsody = Literal["last", "start"]
MissingStreams = Literal["refuse", "neutral"]


class PgslmUnitLM(DecoderUnitLM):
    """Rows `<s> u1..un <separator> answers`; each row carries the duration and F0 of the unit before it.

    `separator_prosody` (None: as the model's configuration says) is what stands under the separator. SpeechPrompt v2
    never published its choice. `last` (the default) keeps the streams as the LM was trained on them: behind u_n come
    d_n and f_n, which no other row shows, so that a prompt can use the last unit's prosody. `start` puts the values
    of `<s>` there (0 frames, no pitch) and hides them: the ablation. The separator and answers have no prosody of
    their own, so the rows behind them carry the start values under both. A prompt is bound to the choice: the
    fingerprint covers it.

    `missing_streams`: units without durations or F0 are refused, or (`neutral`) read as 0 frames and the
    speaker's mean pitch, as the `no_prosody` models always do; those need no prosody at all.
    """

    model: PgslmForCausalLM

    def __init__(
        self,
        model: PgslmForCausalLM,
        separator_prosody: SeparatorProsody | None = None,
        missing_streams: MissingStreams = "refuse",
        fingerprint: str | None = None,
    ) -> None:
        separator_prosody = separator_prosody or cast(SeparatorProsody, model.config.separator_prosody)
        for kind, name, known in (
            ("separator prosody", separator_prosody, get_args(SeparatorProsody)),
            ("rule for missing streams", missing_streams, get_args(MissingStreams)),
        ):
            if name not in known:
                raise UnknownName(kind, name, known)
        config = model.config
        about = [f"{name}={getattr(config, name)}" for name in ("reads_duration", "reads_f0", "f0_edges")]
        about.append(f"separator_prosody={separator_prosody}")
        super().__init__(model, torch.arange(config.unit_count), about, fingerprint)
        self.start_id = int(config.bos_token_id)
        self.separator_prosody, self.missing_streams = separator_prosody, missing_streams

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        separator_prosody: SeparatorProsody | None = None,
        missing_streams: MissingStreams = "refuse",
    ) -> PgslmUnitLM:
        """Load a folder that `save_pretrained` wrote, computing in fp32. CheckpointError when it is damaged.

        What stands under the separator is what its config.json says, unless it is named.
        """
        model = cast(PgslmForCausalLM, read_model(PgslmForCausalLM, folder, "a pGSLM"))
        try:
            return cls(model, separator_prosody, missing_streams)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder} does not hold a pGSLM: {error}") from None

    def heads_of(self, hidden: Tensor) -> dict[str, Tensor]:
        """Logits of units (..., V), duration and f0 (one value where the stream is continuous), in fp32."""
        return {name: logits.float() for name, logits in self.model.streams_of(hidden).items()}

    def other_streams(self, batch: UnitBatch, width: int) -> Tensor:
        """Durations and F0 as vectors (B,width,D), shifted by one row."""
        config = self.model.config
        durations = self._stream(batch, batch.durations, "durations", config.reads_duration)
        f0 = self._stream(batch, batch.f0, "f0", config.reads_f0)
        # a stream that is not read needs no bins: the model zeroes whatever stands here
        values = {
            "duration": read_durations(config, durations.long()),
            "f0": read_f0(config, f0) if config.reads_f0 else f0.long() if config.discrete_f0 else f0,
        }
        ends = stream_ends(config)
        # rows behind the separator, and it too where it is not to see the last unit's prosody, read the start
        columns = torch.arange(width, device=batch.lengths.device)
        starts = columns > batch.lengths[:, None] + (1 if self.separator_prosody == "last" else 0)
        rows = []
        for name, stream in values.items():
            moved = shifted(stream, batch.lengths, width, ends[name])
            rows.append(torch.where(starts, moved.new_tensor(ends[name][1]), moved))
        return self.model.prosody(*rows)

    def _stream(self, batch: UnitBatch, values: Tensor | None, name: str, is_read: bool) -> Tensor:
        """A stream with zeros behind each utterance, or zeros throughout where it may be missing."""
        if values is None:
            if is_read and self.missing_streams == "refuse":
                raise UnitsError(
                    f"this pGSLM reads {name}, and the batch has an utterance without; encode the corpus with a "
                    "prosody tokenizer, or load the LM with missing_streams='neutral'"
                )
            return torch.zeros(batch.unit_ids.shape, device=batch.unit_ids.device)
        return within(values, batch.lengths)
