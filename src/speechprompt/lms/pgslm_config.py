"""Sizes and streams of a pGSLM: what its checkpoint's options say, as a transformers configuration."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PreTrainedConfig

SPECIALS = 4
"""Start, padding, end and unknown: after the units, and after the values of a discrete stream."""

CONTINUOUS_F0_PADDING = -5.0


class PgslmConfig(PreTrainedConfig):
    """Sizes and streams of a pGSLM; the defaults are the published `discrete_prosody_shift_1_1` model.

    `max_duration` (frames) clips discrete durations; `f0_edges` are the `f0_bins` - 1 ascending edges of a
    discrete F0 stream, in mean-normalised log-Hz. `reads_duration`, `reads_f0`: whether the stream is an input
    (the `no_prosody` models predict what they do not read). `loss_weights`: of units, duration and F0.
    `separator_prosody`: what a prompt's separator carries in the prosody streams (docs/decisions/0007).
    """

    model_type = "pgslm"
    attribute_map = {"max_position_embeddings": "max_units"}  # noqa: RUF012

    vocab_size: int = 104
    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    layer_norm_eps: float = 1e-5
    max_units: int = 3072
    discrete_duration: bool = True
    discrete_f0: bool = True
    reads_duration: bool = True
    reads_f0: bool = True
    max_duration: int = 20
    f0_bins: int = 32
    f0_edges: list[float] | None = None
    loss_weights: list[float] | None = None
    separator_prosody: str = "last"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        units = self.vocab_size - SPECIALS
        self.bos_token_id, self.pad_token_id, self.eos_token_id = units, units + 1, units + 2
        self.loss_weights = self.loss_weights or [1.0, 0.5, 0.0]
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @property
    def unit_count(self) -> int:
        """Units without the special ids."""
        return self.vocab_size - SPECIALS

    @property
    def stream_sizes(self) -> dict[str, int]:
        """Outputs of each stream: as many as values and specials, or one where it is continuous."""
        return {
            "units": self.vocab_size,
            "duration": self.max_duration + 1 + SPECIALS if self.discrete_duration else 1,
            "f0": self.f0_bins + SPECIALS if self.discrete_f0 else 1,
        }
