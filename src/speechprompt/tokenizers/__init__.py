"""Waveform -> units. Knows no LM and no task."""

from __future__ import annotations

from speechprompt.tokenizers.protocol import UnitTokenizer, Waveform

__all__ = ["UnitTokenizer", "Waveform"]
