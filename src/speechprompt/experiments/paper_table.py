"""The results that SpeechPrompt v2 publishes, as facts: seventeen rows, each a task of a corpus.

Source: arXiv 2303.00733 and its project page (rows 5, 10 and 15 stand on the page only). The unit LM of the
columns is GSLM or pGSLM over HuBERT units; `+` is the learnable verbalizer, without it the fixed random mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Metric = Literal["accuracy", "EER"]

COLUMNS = ("GSLM", "GSLM+", "pGSLM", "pGSLM+", "prior")


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row of the table: `name` is `corpus:task`, `published` the shares under `COLUMNS` (None: not reported).

    Accuracy, or an equal error rate, where lower is better and `positive` names the label that a higher score
    speaks for. `labels` counts those of each slot; `batch_size` is the reference's.
    """

    number: int
    name: str
    title: str
    labels: tuple[int, ...]
    utterances: int
    published: tuple[float | None, ...]
    metric: Metric = "accuracy"
    positive: str | None = None
    batch_size: int = 32
    note: str = ""

    def column(self, name: str) -> float | None:
        """The published number under one of `COLUMNS`."""
        return self.published[COLUMNS.index(name)]


PAPER_ROWS = (
    PaperRow(
        1, "google-speech-commands-v1:command", "speech command, English", (12,), 72_783,
        (0.945, 0.946, 0.943, 0.947, 0.986),
    ),
    PaperRow(
        2, "grabo:command", "speech command, Dutch", (36,), 6_007,
        (0.924, 0.927, 0.175, 0.196, 0.989), batch_size=4,
    ),
    PaperRow(
        3, "lithuanian-speech-commands:command", "speech command, Lithuanian", (15,), 809,
        (0.932, 0.955, 0.909, 0.795, 0.918), batch_size=1,
    ),
    PaperRow(
        4, "arabic-speech-commands:command", "speech command, Arabic", (16,), 1_600,
        (0.997, 1.0, 0.856, 0.926, 0.989), batch_size=1,
    ),
    PaperRow(
        5, "dysarthric-mandarin:command", "speech command, dysarthric Mandarin", (19,), 570,
        (0.743, 0.825, 0.744, 0.231, 0.935), batch_size=1,
    ),
    PaperRow(
        6, "fluent-speech-commands:intent", "intent", (6, 14, 4), 30_043,
        (0.972, 0.973, 0.981, 0.982, 0.997),
    ),
    PaperRow(
        7, "voxforge:language", "language", (6,), 10_800,
        (0.909, 0.942, 0.818, 0.804, 0.998), batch_size=16,
    ),
    PaperRow(
        8, "asvspoof2019-la:spoof", "fake speech", (2,), 121_461,
        (0.185, 0.135, 0.131, 0.183, 0.025), metric="EER", positive="bonafide",
    ),
    PaperRow(
        9, "iemocap:emotion", "emotion", (4,), 5_531,
        (0.421, 0.443, 0.499, 0.502, 0.792),
    ),
    PaperRow(
        10, "easycall:dysarthria", "dysarthria, Italian", (6,), 21_386,
        (0.763, 0.780, 0.838, 0.832, None),
    ),
    PaperRow(
        11, "accentdb:accent", "accent", (9,), 17_313,
        (0.789, 0.834, 0.865, 0.871, 0.995),
    ),
    PaperRow(
        12, "mustard:sarcasm", "sarcasm", (2,), 690,
        (0.551, 0.778, 0.744, 0.787, 0.646),
    ),
    PaperRow(
        13, "mustard-plus-plus:sarcasm", "sarcasm", (2,), 1_202,
        (0.740, 0.752, 0.527, 0.582, 0.652),
    ),
    PaperRow(
        14, "voxceleb1:gender", "gender", (2,), 153_516,
        (0.862, 0.873, 0.916, 0.862, 0.983), note="the prior result is an F1",
    ),
    PaperRow(
        15, "voxceleb1:speaker", "speaker", (1_251,), 153_516,
        (None, 0.009, None, 0.003, 0.948),
    ),
    PaperRow(
        16, "speech-commands-freesound-vad:voice_activity", "voice activity", (2,), 109_617,
        (0.966, 0.969, 0.983, 0.981, 0.988), batch_size=64,
    ),
    PaperRow(
        17, "esc-50:sound", "environmental sounds", (50,), 2_000,
        (0.090, 0.375, 0.203, 0.270, 0.970), batch_size=4,
    ),
)  # fmt: skip


def paper_row(name: str) -> PaperRow | None:
    """The published row of a `corpus:task`; None when the paper has none."""
    return next((row for row in PAPER_ROWS if row.name == name), None)
