"""MUStARD: 690 clips of television shows, sarcastic or not (row 12).

Layout: `sarcasm_data.json` (also in `data/`), the authors' `split_indices.p`, and clips as
`utterances_final/<id>.mp4` (`mmsd_raw_data.zip`) or as extracted `.wav` there or in `utterances_final_wav/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechprompt.corpora.clips_of_shows import SARCASM, by_speaker, clip, clips
from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import SPLITS, marked, numpy_permutation
from speechprompt.corpora.tables import read_records
from speechprompt.errors import CheckpointError, CorpusError

INDICES = "split_indices.p"

DESCRIPTION = CorpusDescription(
    name="mustard",
    title="MUStARD",
    tasks={"sarcasm": ("sarcasm",)},
    languages=("en",),
    hours=1.0,
    url="https://github.com/soujanyaporia/MUStARD (clips: "
    "https://huggingface.co/datasets/MichiganNLP/MUStARD/resolve/main/mmsd_raw_data.zip)",
    licence="MIT (annotations); clips belong to the broadcasters",
    citation="Castro et al. 2019, Towards Multimodal Sarcasm Detection (An Obviously Perfect Paper), ACL",
    by_hand="put sarcasm_data.json and split_indices.p of the repository beside the unpacked clips",
    marks=("sarcasm_data.json", "data/sarcasm_data.json"),
    split_rules={
        "paper": "fold 0 of the authors' speaker-dependent split file; a tenth of its train is valid with "
        "seed 0 (the reference has no seed)",
        "seeded": "a fifth test, a tenth of the rest valid, seed 0; the same speakers in all",
        "speaker-independent": "the authors' other setting: the show Friends is test, a tenth of the rest "
        "valid, seed 0",
        "speaker-disjoint": "whole speakers of a show, dealt by a seeded hash",
    },
    slots={"sarcasm": SARCASM},
    split_lists=(INDICES,),
    utterances=690,
    published_labels={"sarcasm": dict.fromkeys(SARCASM, 345)},
)


def rows(source: Source) -> Iterator[Row]:
    """The clips in the order of the annotations, which is what the split file counts in."""
    table = source.require("sarcasm_data.json", "data/sarcasm_data.json")
    entries = read_records(table, keys=("show", "speaker", "sarcasm"))
    found, marks = clips(source, entries.keys()), _marks(source, entries)
    speakers = [(entry["show"], entry["speaker"]) for entry in entries.values()]
    disjoint = by_speaker(speakers, source.seed_or(0))
    for place, (name, entry) in enumerate(entries.items()):
        audio = clip(source, found, name)
        if audio is not None:
            pair = speakers[place]
            split = disjoint[pair] if source.rule == "speaker-disjoint" else SPLITS[marks[place]]
            yield Row(audio, split, {"sarcasm": SARCASM[bool(entry["sarcasm"])]}, "/".join(pair), id=name)


def _marks(source: Source, entries: dict[str, dict[str, Any]]) -> bytearray:
    test = _published_test(source, len(entries)) if source.rule == "paper" else None
    if source.rule == "speaker-independent":
        test = [place for place, entry in enumerate(entries.values()) if entry["show"] == "FRIENDS"]
    elif test is None:
        test = numpy_permutation(len(entries), source.seed_or(0))[: len(entries) // 5]
    held = set(test)
    rest = [place for place in range(len(entries)) if place not in held]
    order = numpy_permutation(len(rest), source.seed_or(0))
    return marked(len(entries), [rest[place] for place in order[: len(rest) // 10]], test)


def _published_test(source: Source, count: int) -> list[int] | None:
    path = source.split_list or source.find(INDICES, f"data/{INDICES}")
    if path is not None and path.is_dir():
        path = path / INDICES
    if path is None:
        if source.rule_was_named:
            raise CorpusError(f"split rule 'paper' needs {INDICES}; pass it with --split-list")
        source.fall_back("seeded", f"no {INDICES}; take it from the repository or pass it with --split-list")
        return None
    indices = read_fold_indices(path)
    if not indices or max(indices[0][1]) >= count:
        raise CorpusError(
            f"{path} and sarcasm_data.json do not belong together; take both from the repository"
        )
    return indices[0][1]


def read_fold_indices(path: Path) -> list[tuple[list[int], list[int]]]:
    """The (train, test) row numbers of each fold in the authors' pickle, read without running it."""
    from speechprompt.checkpoints import reading  # the other corpora need no torch
    from speechprompt.checkpoints.kmeans_files import read_joblib

    try:
        with reading(path, f"the authors' {INDICES}"):
            return [(_numbers(train), _numbers(test)) for train, test in read_joblib(path.read_bytes())]
    except CheckpointError as error:
        raise CorpusError(str(error)) from None


def _numbers(indices: Any) -> list[int]:
    """Row numbers in an integer array or list; ValueError for anything else."""
    numbers = indices if isinstance(indices, list) else getattr(indices, "tolist", list)()
    if not numbers or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a fold without row numbers")
    return numbers
