"""YAAPT (Zahorian and Hu 2008) as pGSLM's authors called it: the tracker its published models were trained with.

Exact and slow (about 60 ms a second of speech); `pitch.py` follows it closely at a fraction of the time.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from speechprompt.errors import MissingExtra
from speechprompt.tokenizers.prosody import F0_RATE, Pitch
from speechprompt.tokenizers.protocol import Waveform

PEAK = 0.95
FRAME_SECONDS = 0.020
OPTIONS = {
    "frame_length": 1000 * FRAME_SECONDS,
    "frame_space": 1000 / F0_RATE,
    "nccf_thresh1": 0.25,
    "tda_frame_length": 25.0,
}


class YaaptTracker:
    """amfm_decompy's YAAPT: peak at 0.95, 10 ms of silence on either side, frames of 20 ms, a hop of 5 ms.

    Where YAAPT fails on a clip (silence, a few samples) the clip is unvoiced throughout, as in the reference.
    MissingExtra without the `prosody` extra.
    """

    name = "yaapt"
    fingerprint = "yaapt-amfm_decompy-1.0.12-pgslm"

    def __init__(self) -> None:
        self._signals, self._tracker = _yaapt()

    def track(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[Pitch]:
        """F0 tracks of waveforms (S,), one clip after another."""
        return [self._track(waveform, sample_rate) for waveform in waveforms]

    def _track(self, waveform: Waveform, sample_rate: int) -> Pitch:
        count = -(-len(waveform) * F0_RATE // sample_rate)
        unvoiced = np.zeros(count, dtype=np.float32)
        peak = float(np.abs(waveform).max(initial=0.0))
        if peak == 0.0:
            return unvoiced
        margin = int(FRAME_SECONDS * sample_rate) // 2
        padded = np.pad(waveform.astype(np.float64) / peak * PEAK, margin)
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pitch = self._tracker.yaapt(self._signals.SignalObj(padded, sample_rate), **OPTIONS)
        except Exception:  # it raises whatever its arithmetic meets on clips without any pitch
            return unvoiced
        found = np.asarray(pitch.samp_values, dtype=np.float32)[:count]
        return np.pad(np.nan_to_num(found), (0, count - len(found)))


def _yaapt() -> tuple[Any, Any]:
    """amfm_decompy's two modules. The second imports the first by a name that only its own folder knows."""
    try:
        import amfm_decompy.basic_tools as signals

        sys.modules.setdefault("basic_tools", signals)
        import amfm_decompy.pYAAPT as tracker
    except ImportError:
        raise MissingExtra("amfm_decompy", "prosody", "the YAAPT pitch tracker") from None
    return signals, tracker
