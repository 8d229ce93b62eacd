"""Toys that are real: a tokenizer, a unit LM and a corpus small enough for a test, with every property of large ones.

Our own fixtures, and yours: write a test of your task or LM against them without a download.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from speechprompt.errors import AudioError
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.units import Units, deduplicate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from speechprompt.lms.gslm_units import GslmUnitLM

UNIT_COUNT = 20


class ToyTokenizer:
    """Units from loudness and zero crossings of 20 ms frames at 8 kHz: no weights, yet real units of real audio."""

    name = "toy"
    fingerprint = "toy-tokenizer-1"
    sample_rate = 8000
    frame_rate = 50.0
    unit_count = UNIT_COUNT

    def encode(self, waveform: NDArray[np.float32]) -> Units:
        """Units of one waveform (S,). AudioError below one frame (160 samples)."""
        frames = len(waveform) // 160
        if not frames:
            raise AudioError(f"{len(waveform)} samples are shorter than one frame of 160")
        rows = np.asarray(waveform[: frames * 160], dtype=np.float64).reshape(frames, 160)
        loudness = np.clip((np.log10(np.mean(rows**2, 1) + 1e-8) + 8) / 2, 0, 3).astype(np.int64)
        crossings = np.clip(np.sum(np.diff(np.signbit(rows), axis=1), 1) // 12, 0, 4)
        return deduplicate(loudness * 5 + crossings)

    def encode_batch(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Units]:
        """Units of several waveforms, each as if alone."""
        return [self.encode(waveform) for waveform in waveforms]


def toy_lm(seed: int = 0, layers: int = 2, width: int = 16, unit_count: int = UNIT_COUNT) -> GslmUnitLM:
    """A random GSLM-shaped unit LM (2 layers of width 16 by default), the same for the same seed."""
    import torch

    from speechprompt.lms.gslm import GslmConfig, GslmForCausalLM
    from speechprompt.lms.gslm_units import GslmUnitLM

    config = GslmConfig(
        vocab_size=unit_count + 4,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_units=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GslmForCausalLM(config)
        for name, parameter in model.named_parameters():
            # norms and biases that are not one and zero, so that a wrong one shows
            if "norm" in name or name.endswith("bias"):
                parameter.data += 0.2 * torch.randn_like(parameter)
    return GslmUnitLM(model)


def toy_corpus(utterances: int = 120, seed: int = 0) -> Corpus:
    """Units whose labels can be heard: slot `word` decides which units are frequent, `length` how many there are.

    Splits 60 / 20 / 20 %, four speakers a split.
    """
    random = np.random.default_rng(seed)
    rows = []
    for i in range(utterances):
        split = "train" if i % 5 < 3 else ("valid" if i % 5 == 3 else "test")
        word, length = i % 3, (i // 3) % 2
        count = int(random.integers(4, 8)) if length == 0 else int(random.integers(10, 15))
        frames = random.choice(UNIT_COUNT, 3 * count, p=_unit_weights(word))
        units = deduplicate(frames)
        rows.append(
            Utterance(
                id=f"toy_{i:04d}",
                split=split,
                labels={"word": ("alpha", "beta", "gamma")[word], "length": ("short", "long")[length]},
                units=units,
                speaker=f"{split}_{i % 4}",
            )
        )
    slots = {"word": ("alpha", "beta", "gamma"), "length": ("short", "long")}
    return Corpus("toy", tuple(rows), slots, tokenizer=ToyTokenizer.name, licence="CC0-1.0")


def _unit_weights(word: int) -> NDArray[np.float64]:
    weights = np.ones(UNIT_COUNT)
    weights[word * 5 : word * 5 + 5] = 5.0
    return np.asarray(weights / weights.sum())
