"""What is measured on: unit LMs with random weights, utterances of realistic lengths, speech of the demo corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprompt.benchmarking.case import Dtype
from speechprompt.benchmarking.products import DecoderSizes
from speechprompt.experiments.demo import demo_corpus
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM, prefers_bfloat16

TRUE_SIZE = DecoderSizes(12, 1024, 16, 4096, 104)
"""The published GSLM over 100 HuBERT units, 151 M parameters."""
QUICK_SIZE = DecoderSizes(2, 64, 4, 128, 104)
SMALL_SIZE = DecoderSizes(4, 192, 3, 640, 696)
"""The unit LM of `tiny@4`."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long utterances of a corpus are: units, mean and deviation; and how many labels they have."""

    name: str
    mean: float
    deviation: float
    labels: int


SPEECH_COMMANDS = Lengths("Speech Commands", 19.0, 4.0, 12)
FLUENT = Lengths("Fluent Speech Commands", 74.0, 20.0, 31)
TINY = Lengths("one-second clips", 40.0, 10.0, 8)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run measures. `quick`: small sizes, so that all of it takes seconds and says nothing about speed."""

    device: str = "cpu"
    repeats: int = 5
    quick: bool = False

    @property
    def batch_size(self) -> int:
        """Utterances of a batch: what the aims name for each device."""
        return 4 if self.quick else 256 if self.device.startswith("cuda") else 32


def random_lm(sizes: DecoderSizes, device: str, dtype: torch.dtype | None = None) -> GslmUnitLM:
    """A GSLM with random weights, the same for the same sizes; `dtype` None: bfloat16 where it pays."""
    from speechprompt.lms.gslm import GslmConfig, GslmForCausalLM

    config = GslmConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.inner,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = GslmUnitLM(GslmForCausalLM(config), fingerprint="random")
    if dtype is None:
        dtype = torch.bfloat16 if prefers_bfloat16(lm, torch.device(device)) else torch.float32
    return lm.to(device, dtype)


def weight_bytes(lm: GslmUnitLM) -> float:
    """Bytes of an LM's weights in its dtype, each tensor once."""
    return float(sum(p.numel() * p.element_size() for p in lm.model.parameters()))


def dtype_of(lm: GslmUnitLM) -> Dtype:
    """What an LM computes in, by name."""
    return "bfloat16" if lm.dtype == torch.bfloat16 else "float32"


def sizes_of(lm: GslmUnitLM) -> DecoderSizes:
    """The sizes of a GSLM."""
    inner = int(lm.model.config.intermediate_size)
    return DecoderSizes(lm.layers, lm.width, lm.heads, inner, lm.vocabulary_size)


def utterances(lengths: Lengths, count: int, unit_count: int = 100) -> list[Units]:
    """Random units of realistic lengths, the same in every run."""
    random = np.random.default_rng(0)
    counts = np.clip(random.normal(lengths.mean, lengths.deviation, count), 3, None).astype(int)
    return [Units(random.integers(0, unit_count, n)) for n in counts]


def equal_utterances(length: int, count: int, unit_count: int = 100) -> list[Units]:
    """Random units of one length."""
    random = np.random.default_rng(length)
    return [Units(random.integers(0, unit_count, length)) for _ in range(count)]


def targets_of(units: Sequence[Units], labels: int) -> Tensor:
    """A label (n,1) for every utterance, all of them equally often."""
    return torch.arange(len(units))[:, None] % labels


def fresh_entry(lm: GslmUnitLM, units: Sequence[Units], labels: int, options: TrainingOptions) -> TaskPrompt:
    """An untrained prompt for one slot of so many labels, its verbalizer over logits unless the options say otherwise.

    The other forms have nothing else.
    """
    task = Task("bench", {"label": tuple(f"label{i}" for i in range(labels))})
    options = options.model_copy(update={"streams": options.streams or "units"})
    return new_entry(task, lm, options, units, targets_of(units, labels))


def fresh_run(lm: GslmUnitLM, units: Sequence[Units], labels: int, options: TrainingOptions) -> Run:
    """A training of an untrained prompt whose every batch is all of these utterances, where they are that many."""
    examples = Examples(list(units), targets_of(units, labels))
    return Run("bench", fresh_entry(lm, units, labels, options), options, examples, examples)


def demo_clips(seconds: float, count: int, rate: int) -> list[NDArray[np.float32]]:
    """So many clips (S,) of the demo corpus's speech, laid end to end and cut."""
    paths = [u.audio for u in demo_corpus().split("train")[::7] if u.audio is not None]
    samples = round(seconds * rate)
    line: list[NDArray[np.float32]] = []
    while sum(map(len, line)) < samples * count:
        line.append(read_waveform(paths[len(line) % len(paths)], rate)[0])
    joined = np.concatenate(line)
    return [joined[i * samples : (i + 1) * samples] for i in range(count)]


def untaught_artifact(target: Path, units: Path) -> tuple[Path, Path]:
    """A prompt on `tiny` of the size that training gives it, after one step on a few clips; and one of them.

    Side effects: the folder `target`, and a store in `units`.
    """
    from speechprompt.encoding import encode_corpus
    from speechprompt.prompting.train import train
    from speechprompt.speech.unit_store import UnitStore

    spoken_lm, corpus = SpokenLM.load("tiny"), demo_corpus()
    rows = (*corpus.split("train")[::131], *corpus.split("valid")[::31])
    store = UnitStore(units, spoken_lm.tokenizer.fingerprint, "float32")
    few = encode_corpus(replace(corpus, utterances=rows), spoken_lm, store).corpus
    options = TrainingOptions(steps=1, evaluations=1, batch_size=4)
    artifact = train(few, spoken_lm, [next(iter(few.slots))], options)
    clip = rows[0].audio
    assert clip is not None
    return artifact.save(target), Path(clip)
