"""VoxCeleb1: celebrities in videos, by gender and by speaker (rows 14 and 15).

Layout: `dev/wav/<id>/<video>/<n>.wav` and `test/wav/…`, or all under `wav/`; beside them the authors'
`iden_split.txt` (`1 id10001/Y8hIVOBuels/00001.wav`: 1 train, 2 valid, 3 test) and `vox1_meta.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import dealt, hashed_split
from speechprompt.corpora.tables import read_lines, read_table
from speechprompt.errors import CorpusError

LISTS = ("iden_split.txt", "veri_test_class.txt")
SPLIT_NUMBERS = {"1": "train", "2": "valid", "3": "test"}
PLACES = (("dev/wav", "test/wav"), ("vox1_dev_wav/wav", "vox1_test_wav/wav"), ("wav",), ("dev", "test"))
SUFFIXES = (".wav", ".flac", ".m4a")

DESCRIPTION = CorpusDescription(
    name="voxceleb1",
    title="VoxCeleb1",
    tasks={"gender": ("gender",), "speaker": ("speaker",)},
    languages=("en",),
    hours=352.0,
    url="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
    licence="CC BY 4.0 (metadata); videos belong to their owners",
    citation="Nagrani, Chung and Zisserman 2017, VoxCeleb: A Large-Scale Speaker Identification Dataset, "
    "Interspeech",
    by_hand="ask for a password with the form of the page; put iden_split.txt and vox1_meta.csv beside dev "
    "and test",
    marks=("dev/wav/id*", "test/wav/id*", "vox1_*_wav/wav/id*", "wav/id*", "dev/id*", "id1*"),
    parts=("dev", "test", "vox1_dev_wav", "vox1_test_wav"),
    split_rules={
        "paper": "the authors' identification split (iden_split.txt, which SUPERB uses); the same speakers "
        "in all",
        "seeded": "80/10/10 of videos by a seeded hash; the same speakers in all",
        "speaker-disjoint": "whole speakers, dealt by a seeded hash within each gender (for gender, not "
        "for speaker)",
    },
    slots={"gender": ("F", "M"), "speaker": ()},
    split_lists=LISTS,
    utterances=153_516,
    published={"paper": {"train": 138_361, "valid": 6_904, "test": 8_251}},
)


def rows(source: Source) -> Iterator[Row]:
    """Speaker by speaker, video by video."""
    genders = _genders(source)
    listed = _identification_split(source) if source.rule == "paper" else None
    bases = _bases(source)
    speakers = {
        name: genders.get(name, "") for base in bases for name in source.folders(base) if _is_id(name)
    }
    disjoint = dealt(speakers, source.seed_or(0)) if source.rule == "speaker-disjoint" else {}
    for base in bases:
        for speaker in source.folders(base):
            if not _is_id(speaker):
                continue
            labels = {"speaker": speaker} | ({"gender": genders[speaker]} if speaker in genders else {})
            for audio in source.files(f"{base}/{speaker}".lstrip("/"), SUFFIXES):
                key = "/".join(audio.rpartition(".")[0].split("/")[-3:])
                if listed is None:
                    split = disjoint.get(speaker) or hashed_split(key.rpartition("/")[0], source.seed_or(0))
                elif key in listed:
                    split = listed[key]
                else:
                    source.notice(f"files that {LISTS[0]} does not name are left out, first: {audio}")
                    continue
                yield Row(audio, split, labels, speaker)


def _is_id(name: str) -> bool:
    return name[:2] == "id" and name[2:].isdigit()


def _bases(source: Source) -> list[str]:
    for group in PLACES:
        found = [base for base in group if source.path(base).is_dir()]
        if found:
            return found
    return [""]


def _genders(source: Source) -> dict[str, str]:
    path = source.metadata("gender", "vox1_meta.csv", hint="take it from the page of the corpus")
    if path is None:
        return {}
    lines = read_table(path, columns=("VoxCeleb1 ID", "Gender"))
    return {line["VoxCeleb1 ID"]: line["Gender"][:1].upper() for line in lines if line.get("Gender")}


def _identification_split(source: Source) -> dict[str, str] | None:
    path = source.split_list or source.find(*LISTS)
    if path is None:
        if source.rule_was_named:
            raise CorpusError(f"split rule 'paper' needs {LISTS[0]}; take it from the page of the corpus")
        source.fall_back("seeded", f"no {LISTS[0]}; take it from the page of the corpus")
        return None
    if path.is_dir():
        path = path / LISTS[0]
    if not path.is_file():
        raise CorpusError(f"no split list at {path}; pass iden_split.txt with --split-list")
    splits = {}
    for line in read_lines(path):
        number, _, audio = line.partition(" ")
        if number not in SPLIT_NUMBERS or not audio:
            raise CorpusError(
                f"{path}: '{line[:60]}' is no line like '1 id10001/video/00001.wav'; fetch it again"
            )
        splits[audio.strip().rpartition(".")[0]] = SPLIT_NUMBERS[number]
    return splits
