"""The bundled spoken LM: from waveform to label on the machine at hand, and how long the first answer takes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from speechprompt.benchmarking.case import NAIVE, OURS, PEFT, Case, Figure, Finding, Row
from speechprompt.benchmarking.clock import Clock, Form
from speechprompt.benchmarking.lm_stages import PROMPT_LENGTH
from speechprompt.benchmarking.material import (
    Settings,
    demo_clips,
    dtype_of,
    fresh_entry,
    sizes_of,
    untaught_artifact,
    weight_bytes,
)
from speechprompt.benchmarking.naive import NaivePromptedGslm
from speechprompt.benchmarking.peft_form import PeftPrefix, is_installed, source_rows
from speechprompt.benchmarking.products import Product, mel_encoder_products, prediction_products
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.predictor import window_scores
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM, content_of, multiplies_bfloat16

LABELS = 8
REAL_TIME, FAR_REAL_TIME = 15.0, 50.0
MOST_LM_SHARE = 0.15
COLD_START_SECONDS = 3.0


class TinyWork:
    """Clips of one length, and every form of turning them into labels.

    The prompt has the paper's length in every form; ours reads what the recipe `default` reads, the others logits.
    Naive: clip by clip through the tokenizer and the naive form; peft: batches through ours and peft's prefix, since
    peft has no tokenizers. `dtype` is the LM's, by default as stored.
    """

    def __init__(
        self, settings: Settings, seconds: float, count: int, dtype: torch.dtype | None = None
    ) -> None:
        self.spoken_lm = SpokenLM.load("tiny", settings.device)
        lm = self.spoken_lm.lm
        assert isinstance(lm, GslmUnitLM)
        if dtype is not None:
            lm.to(dtype=dtype)
        self.lm, self.tokenizer = lm, self.spoken_lm.tokenizer
        self.seconds, self.total = seconds, seconds * count
        self.clips = demo_clips(seconds, count, self.tokenizer.sample_rate)
        self.units = self.tokenizer.encode_batch(self.clips)
        options = TrainingOptions(prompt_length=PROMPT_LENGTH, streams="utterance")
        self.prompt = fresh_entry(lm, self.units, LABELS, options).fold(lm)
        published = options.model_copy(update={"method": "before_projection", "streams": "units"})
        self._naive = NaivePromptedGslm(lm.pretrained(), fresh_entry(lm, self.units, LABELS, published))
        self._peft = PeftPrefix(lm, PROMPT_LENGTH, LABELS) if is_installed() else None

    def ours(self, units: Sequence[Units]) -> object:
        """Our scores."""
        return window_scores(self.lm, [(self.prompt, row) for row in units])

    @torch.no_grad()
    def naive(self, units: Sequence[Units]) -> object:
        """The naive form's, utterance by utterance."""
        return [self._naive(source_rows([row], self.lm))[:, -1].argmax(-1).cpu() for row in units]

    def cases(self) -> Iterator[Case]:
        """Tokenizer, LM, and both."""
        tokenizer, clips = self.tokenizer, self.clips
        peft = self._peft
        heard, read = self._encoder_products(), self._lm_products()
        alone = {
            OURS: Form(lambda: tokenizer.encode_batch(clips), self.total),
            NAIVE: Form(lambda: [tokenizer.encode(clip) for clip in clips], self.total),
        }
        yield self._case("tokenizer", alone, heard, 0.0)
        yield self.lm_case()
        both = {
            OURS: Form(lambda: self.ours(tokenizer.encode_batch(clips)), self.total),
            NAIVE: Form(lambda: self.naive([tokenizer.encode(clip) for clip in clips]), self.total),
        }
        if peft is not None:
            both[PEFT] = Form(
                lambda: peft.predict(source_rows(tokenizer.encode_batch(clips), self.lm)), self.total
            )
        aims = {"rate": REAL_TIME if self.seconds < 2 else FAR_REAL_TIME}
        yield self._case("waveform to label", both, [*heard, *read], weight_bytes(self.lm), aims)

    def lm_case(self) -> Case:
        """From units to labels."""
        units, peft = self.units, self._peft
        answers = {
            OURS: Form(lambda: self.ours(units), self.total),
            NAIVE: Form(lambda: self.naive(units), self.total),
        }
        if peft is not None:
            answers[PEFT] = Form(lambda: peft.predict(source_rows(units, self.lm)), self.total)
        name = "LM" if self.lm.dtype == torch.float32 else "LM in bfloat16"
        return self._case(name, answers, self._lm_products(), weight_bytes(self.lm))

    def _case(
        self,
        name: str,
        forms: dict[str, Form],
        products: Sequence[Product],
        size: float,
        aims: dict[str, float] | None = None,
    ) -> Case:
        title = f"{self.spoken_lm.name}, {name}, {len(self.clips)} clips of {self.seconds:g} s"
        size += 4.0 * sum(map(len, self.clips))
        return Case("tiny", title, "seconds of audio", forms, products, size, dtype_of(self.lm), aims or {})

    def _encoder_products(self) -> list[Product]:
        folder = self.spoken_lm.folder
        assert folder is not None
        about = json.loads((folder / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
        sizes = {name: about["encoder"][name] for name in ("mels", "layers", "width", "heads", "inner")}
        frames = [round(self.seconds * self.tokenizer.frame_rate)] * len(self.clips)
        centres = content_of(self.tokenizer).unit_count
        return mel_encoder_products(frames, centres=centres, **sizes)

    def _lm_products(self) -> list[Product]:
        return prediction_products(sizes_of(self.lm), list(map(len, self.units)), PROMPT_LENGTH, LABELS)


def tiny_findings(settings: Settings, clock: Clock, bandwidth: float) -> Iterator[Finding]:
    """Every length's rows, and the share of the tokenizer's time that the LM adds to it."""
    for seconds in (0.5,) if settings.quick else (1.0, 3.0, 10.0):
        work = TinyWork(settings, seconds, 2 if settings.quick else 8)
        rows: list[Row] = [case.measure(clock, bandwidth) for case in work.cases()]
        yield from rows
        tokenizer, lm, _ = rows
        share = tokenizer.rates[OURS] / lm.rates[OURS]
        name = f"LM's time over the tokenizer's, clips of {seconds:g} s"
        yield Figure("tiny", name, share, "", most=MOST_LM_SHARE)
        if settings.device != "cpu" or multiplies_bfloat16():
            lean = TinyWork(settings, seconds, 2 if settings.quick else 8, torch.bfloat16)
            row = lean.lm_case().measure(clock, bandwidth)
            yield row
            yield Figure(
                "tiny", f"{name}, bfloat16", tokenizer.rates[OURS] / row.rates[OURS], "", most=MOST_LM_SHARE
            )


def cold_start(settings: Settings) -> Iterator[Finding]:
    """CPU seconds of `speechprompt predict` on one clip in a process of its own, kernel time included; the median."""
    with tempfile.TemporaryDirectory() as scratch:
        prompt, clip = untaught_artifact(Path(scratch) / "prompt", Path(scratch) / "units")
        taken: list[float] = []
        for _ in range(1 if settings.quick else max(3, settings.repeats)):
            taken.append(
                _cpu_seconds("predict", str(clip), "--prompt", str(prompt), "--device", "cpu", "--json")
            )
    value = float(np.median(taken))
    yield Figure("cold start", "predict, tiny, one clip", value, "CPU seconds", most=COLD_START_SECONDS)


def _cpu_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "speechprompt", *arguments], check=True, capture_output=True, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
