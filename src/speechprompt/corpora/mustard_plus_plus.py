"""MUStARD++: 1,202 clips of television shows with sarcasm and emotions (row 13).

Layout: `mustard++_text.csv` (context lines and, with a value in `Sarcasm`, the utterances; fields run over
lines) and clips as `final_utterance_videos/<SCENE>_u.mp4` or as extracted `.wav`, there or in a folder beside it.
`KEY` is the clip's name in every published row but one, where an emotion slipped into its place.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.clips_of_shows import SARCASM, by_speaker, clip, clips
from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import SPLITS, shuffled_tenths
from speechprompt.corpora.tables import read_table

TABLE = "mustard++_text.csv"
EMOTION_COLUMNS = {"implicit_emotion": "Implicit_Emotion", "explicit_emotion": "Explicit_Emotion"}

DESCRIPTION = CorpusDescription(
    name="mustard-plus-plus",
    title="MUStARD++",
    tasks={"sarcasm": ("sarcasm",), **{slot: (slot,) for slot in EMOTION_COLUMNS}},
    languages=("en",),
    hours=1.4,
    url="https://github.com/cfiltnlp/MUStARD_Plus_Plus (clips: "
    "https://drive.google.com/drive/folders/1kUdT2yU7ERJ5KdauObTj5oQsBlSrvTlW)",
    licence="none stated; clips belong to the broadcasters",
    citation="Ray et al. 2022, A Multimodal Corpus for Emotion Recognition in Sarcasm, LREC",
    by_hand="put mustard++_text.csv of the repository beside the folder of clips",
    marks=(TABLE,),
    split_rules={
        "paper": "80/10/10 at random with seed 0 (the reference has no seed); the same speakers in all",
        "speaker-disjoint": "whole speakers of a show, dealt by a seeded hash",
    },
    slots={"sarcasm": SARCASM, "implicit_emotion": (), "explicit_emotion": ()},
    utterances=1_202,
    published_labels={"sarcasm": dict.fromkeys(SARCASM, 601)},
)


def rows(source: Source) -> Iterator[Row]:
    """The utterances in the order of the table; a key that stands twice counts once."""
    table = source.require(TABLE)
    columns = ("SCENE", "KEY", "SPEAKER", "SHOW", "Sarcasm")
    lines = {_clip_name(line): line for line in read_table(table, columns) if line.get("Sarcasm")}
    pairs = {key: (line["SHOW"], line["SPEAKER"]) for key, line in lines.items()}
    disjoint = by_speaker(list(pairs.values()), source.seed_or(0))
    marks = shuffled_tenths(len(lines), source.seed_or(0))
    found = clips(source, lines.keys())
    for place, (key, line) in enumerate(lines.items()):
        audio = clip(source, found, key)
        if audio is None:
            continue
        labels = {"sarcasm": SARCASM[line["Sarcasm"].lower() in ("1", "1.0", "true")]}
        for slot, column in EMOTION_COLUMNS.items():
            if line.get(column):
                labels[slot] = line[column].lower()
        split = disjoint[pairs[key]] if source.rule == "speaker-disjoint" else SPLITS[marks[place]]
        yield Row(audio, split, labels, "/".join(pairs[key]), id=key)


def _clip_name(line: dict[str, str]) -> str:
    """The key, or `<SCENE>_u` where the key is not one of its scene."""
    return line["KEY"] if line["KEY"].startswith(line["SCENE"]) else f"{line['SCENE']}_u"
