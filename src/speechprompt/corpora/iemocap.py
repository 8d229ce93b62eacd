"""IEMOCAP: ten actors in five dyadic sessions, four emotions in the paper (row 9).

Layout: `IEMOCAP_full_release/Session<N>/dialog/EmoEvaluation/<dialog>.txt` (lines `[start -
end]<tab>turn<tab>emotion <tab>[V, A, D]`) and `Session<N>/sentences/wav/<dialog>/<turn>.wav`.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import SPLITS, marked, numpy_permutation
from speechprompt.corpora.tables import read_lines
from speechprompt.errors import CorpusError

EMOTIONS = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
DISJOINT = {"Session1": "test", "Session2": "valid"}

DESCRIPTION = CorpusDescription(
    name="iemocap",
    title="IEMOCAP",
    tasks={"emotion": ("emotion",), "gender": ("gender",)},
    languages=("en",),
    hours=12.0,
    url="https://sail.usc.edu/iemocap/",
    licence="IEMOCAP licence (research only, on request)",
    citation="Busso et al. 2008, IEMOCAP: Interactive Emotional Dyadic Motion Capture Database, Language "
    "Resources and Evaluation 42(4)",
    by_hand="sign the release form on the page of the corpus",
    marks=("Session[1-5]",),
    parts=SESSIONS,
    split_rules={
        "paper": "Session1 test, a fifth of the rest valid (numpy, seed 0; the speakers of train), excited "
        "merged into happy (the reference reads the evaluation files in the order of the disk; ours are "
        "sorted)",
        "speaker-disjoint": "Session1 test, Session2 valid, Session3 to Session5 train",
        "folds": "five folds, one session each (speaker-disjoint)",
    },
    slots={"emotion": ("neu", "hap", "ang", "sad"), "gender": ("F", "M")},
    utterances=5_531,
    published_labels={"emotion": {"neu": 1_708, "hap": 1_636, "ang": 1_103, "sad": 1_084}},
)


def rows(source: Source) -> Iterator[Row]:
    """Session by session, dialog by dialog; other emotions are left out."""
    turns = [turn for session in source.folders() if session in SESSIONS for turn in _turns(source, session)]
    rest = [place for place, (audio, _) in enumerate(turns) if not audio.startswith("Session1/")]
    order = numpy_permutation(len(rest), source.seed_or(0))
    valid = [rest[place] for place in order[: int(len(rest) * 0.2)]]
    marks = marked(len(turns), valid, set(range(len(turns))) - set(rest))
    for place, (audio, emotion) in enumerate(turns):
        session, name = audio.partition("/")[0], audio.rpartition("/")[2]
        if source.rule == "folds":
            split = f"fold{session[-1]}"
        elif source.rule == "speaker-disjoint":
            split = DISJOINT.get(session, "train")
        else:
            split = SPLITS[marks[place]]
        gender = name.rpartition("_")[2][:1]
        if source.has(audio):
            yield Row(audio, split, {"emotion": emotion, "gender": gender}, f"Ses0{session[-1]}{gender}")


def _turns(source: Source, session: str) -> Iterator[tuple[str, str]]:
    folder = source.path(f"{session}/dialog/EmoEvaluation")
    if not folder.is_dir():
        raise CorpusError(f"{folder} is missing; unpack the whole release, the labels are there")
    for path in sorted(folder.glob("[!.]*.txt")):
        for line in read_lines(path):
            fields = line.split("\t")
            if line[0] == "[" and len(fields) > 2 and fields[2] in EMOTIONS:
                dialog = fields[1].rpartition("_")[0]
                audio = f"{session}/sentences/wav/{dialog}/{fields[1]}.wav"
                yield audio, EMOTIONS[fields[2]]
