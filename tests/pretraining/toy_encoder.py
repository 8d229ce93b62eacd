"""An encoder small enough for tests, and a schedule of a few steps."""

from __future__ import annotations

from speechprompt.pretraining.masked_prediction import MaskedPredictionOptions
from speechprompt.tokenizers.mel_encoder import MelEncoderConfig

SIZES = MelEncoderConfig(mels=20, width=16, heads=2, inner=32, kernel=3, layers=2)
TOY = MaskedPredictionOptions(
    encoder=SIZES, steps=4, batch_frames=128, crop_frames=40, warmup_steps=2, save_every=2, bf16=False
)
