"""Common Voice: read sentences that volunteers record, by language, accent, gender and age.

Layout: `cv-corpus-<version>/<language>/{train,dev,test,validated}.tsv` and `<language>/clips/*.mp3`; one or
several languages. The tables have no quoting; columns differ between versions (`accent` or `accents`, `male`
or `male_masculine`, and paths with or without `.mp3`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import hashed_split
from speechprompt.corpora.tables import read_table
from speechprompt.errors import CorpusError

AGES = (
    "teens",
    "twenties",
    "thirties",
    "fourties",
    "fifties",
    "sixties",
    "seventies",
    "eighties",
    "nineties",
)
GENDERS = {"male": "M", "female": "F", "male_masculine": "M", "female_feminine": "F"}
NO_ANSWER = frozenset(("", "do_not_wish_to_say", "undefined"))
OFFICIAL = {"train": "train", "dev": "valid", "test": "test"}

DESCRIPTION = CorpusDescription(
    name="common-voice",
    title="Common Voice",
    tasks={slot: (slot,) for slot in ("language", "accent", "gender", "age")},
    languages=("more than 100",),
    url="https://commonvoice.mozilla.org/datasets",
    licence="CC0 1.0",
    citation="Ardila et al. 2020, Common Voice: A Massively-Multilingual Speech Corpus, LREC",
    by_hand="the download asks for an e-mail address (since October 2025 for an account of the Mozilla Data "
    "Collective); unpack the languages side by side",
    marks=("*/clips", "clips", "validated.tsv"),
    split_rules={
        "official": "the official train, dev and test tables (speaker-disjoint)",
        "validated": "all validated clips, whole speakers by a seeded hash, 80/10/10",
    },
    slots={"language": (), "accent": (), "gender": ("F", "M"), "age": AGES},
)


def rows(source: Source) -> Iterator[Row]:
    """Language by language, table by table, in their order; labels that were not given are left out."""
    single = source.path("clips").is_dir() or source.path("validated.tsv").is_file()
    for folder in [""] if single else source.folders():
        if single or source.path(f"{folder}/clips").is_dir():
            yield from _language(source, folder)


def _language(source: Source, folder: str) -> Iterator[Row]:
    prefix = f"{folder}/" if folder else ""
    if source.rule == "official":
        tables = {split: source.path(f"{prefix}{name}.tsv") for name, split in OFFICIAL.items()}
    else:
        tables = {"": source.path(f"{prefix}validated.tsv")}
    for split, table in tables.items():
        if not table.is_file():
            raise CorpusError(f"{table} is missing; unpack the whole archive of the language")
        yield from _table(source, table, prefix, split)


def _table(source: Source, table: Path, prefix: str, split: str) -> Iterator[Row]:
    name = table.parent.name
    for line in read_table(table, columns=("client_id", "path"), delimiter="\t", quoted=False):
        audio = f"{prefix}clips/{line['path']}"
        if not line["path"].endswith((".mp3", ".wav")):
            audio += ".mp3"
        if source.has(audio):
            speaker = line["client_id"]
            labels = {"language": line.get("locale") or name}
            accent = line.get("accents") or line.get("accent") or ""
            gender, age = line.get("gender", ""), line.get("age", "")
            if accent not in NO_ANSWER:
                labels["accent"] = accent
            if gender not in NO_ANSWER:
                labels["gender"] = GENDERS.get(gender, gender)
            if age not in NO_ANSWER:
                labels["age"] = age
            yield Row(audio, split or hashed_split(speaker, source.seed_or(0)), labels, speaker)
