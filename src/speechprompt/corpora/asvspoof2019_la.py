"""ASVspoof 2019, logical access: bona fide speech or synthesised (row 8).

Layout: `LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{train.trn,dev.trl,eval.trl}.txt` (speaker, file,
-, attack or -, key) and `LA/ASVspoof2019_LA_{train,dev,eval}/flac/<file>.flac`.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.tables import read_lines
from speechprompt.errors import CorpusError

PARTS = {"train": "train.trn", "valid": "dev.trl", "test": "eval.trl"}
PROTOCOLS = "ASVspoof2019_LA_cm_protocols"

DESCRIPTION = CorpusDescription(
    name="asvspoof2019-la",
    title="ASVspoof 2019 LA",
    tasks={"spoof": ("spoof",)},
    languages=("en",),
    hours=110.0,
    url="https://datashare.ed.ac.uk/handle/10283/3336",
    licence="ODC-By 1.0",
    citation="Wang et al. 2020, ASVspoof 2019: A Large-Scale Public Database of Synthesized, Converted and "
    "Replayed Speech, Computer Speech and Language 64:101114",
    marks=(PROTOCOLS, "ASVspoof2019_LA_train"),
    parts=(PROTOCOLS, "ASVspoof2019_LA_train", "ASVspoof2019_LA_dev", "ASVspoof2019_LA_eval"),
    split_rules={"paper": "the official train, development and evaluation protocols (speaker-disjoint)"},
    slots={"spoof": ("bonafide", "spoof")},
    published={"paper": {"train": 25_380, "valid": 24_844, "test": 71_237}},
    published_labels={"spoof": {"bonafide": 12_483, "spoof": 108_978}},
)


def rows(source: Source) -> Iterator[Row]:
    """The three protocols in their order; the attack is kept as an extra key."""
    for split, part in PARTS.items():
        protocol = source.require(f"{PROTOCOLS}/ASVspoof2019.LA.cm.{part}.txt")
        for line in read_lines(protocol):
            fields = line.split()
            if len(fields) < 5:
                raise CorpusError(f"{protocol}: '{line[:60]}' is no protocol line; fetch the file again")
            audio = f"ASVspoof2019_LA_{part.partition('.')[0]}/flac/{fields[1]}.flac"
            if source.has(audio):
                extra = {} if fields[3] == "-" else {"attack": fields[3]}
                yield Row(audio, split, {"spoof": fields[4]}, fields[0], extra=extra)
