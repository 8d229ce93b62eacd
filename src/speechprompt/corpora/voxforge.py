"""VoxForge: read sentences that volunteers sent in, six languages in the paper (row 7).

Layout, as `wget -x` leaves it with every archive unpacked in place:
`downloads/<language>/Trunk/Audio/Main/16kHz_16bit/<user>-<date>-<code>/wav/<name>.wav`; English is
`SpeechCorpus` and Russian may be `Russian`. Some submissions hold `flac/` instead.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import hashed_share
from speechprompt.errors import CorpusError

LANGUAGES = ("de", "en", "es", "fr", "it", "ru")
FOLDER_LANGUAGES = {"speechcorpus": "en", "english": "en", "russian": "ru"}
TRUNK = "Trunk/Audio/Main/16kHz_16bit"
SIZES = {"train": 1_200, "valid": 300, "test": 300}
WANTED = sum(SIZES.values())

DESCRIPTION = CorpusDescription(
    name="voxforge",
    title="VoxForge",
    tasks={"language": ("language",)},
    languages=LANGUAGES,
    url="http://www.repository.voxforge1.org/downloads/ (archive list: "
    "https://storage.googleapis.com/tfds-data/downloads/voxforge/voxforge_urls.txt)",
    licence="GPL 3.0",
    citation="VoxForge, http://www.voxforge.org; MacLean 2018",
    by_hand="fetch with `wget -i voxforge_urls.txt -x` and unpack every .tgz where it lies",
    marks=("downloads/*/Trunk", "*/Trunk/Audio", "downloads/*/*/wav", "*/*/wav"),
    split_rules={
        "paper": "per language the first submissions until there are more than 1,800 files, shuffled with "
        "seed 1, "
        "1,200/300/300 files (the same speakers in all; the reference takes submissions in the order of "
        "the disk, "
        "ours are sorted)",
        "speaker-disjoint": "per language 1,200/300/300 files of whole speakers in the order of a seeded "
        "hash; an "
        "anonymous submission counts as a speaker",
    },
    slots={"language": LANGUAGES},
    published={"paper": {split: len(LANGUAGES) * size for split, size in SIZES.items()}},
    published_labels={"language": dict.fromkeys(LANGUAGES, WANTED)},
)


def rows(source: Source) -> Iterator[Row]:
    """Language by language, split by split."""
    base = "downloads/" if source.path("downloads").is_dir() else ""
    for folder in source.folders(base):
        language = FOLDER_LANGUAGES.get(folder.lower(), folder.lower())
        if language not in LANGUAGES:
            continue
        trunk = (
            f"{base}{folder}/{TRUNK}"
            if source.path(f"{base}{folder}/{TRUNK}").is_dir()
            else f"{base}{folder}"
        )
        chosen = _speakers(source, trunk) if source.rule == "speaker-disjoint" else _shuffled(source, trunk)
        for audio, split in chosen:
            yield Row(audio, split, {"language": language}, _speaker(audio))


def _submissions(source: Source, trunk: str) -> Iterator[tuple[str, list[str]]]:
    names = source.folders(trunk)
    if not names and next(source.path(trunk).glob("*.tgz"), None) is not None:
        raise CorpusError(f"the archives in {source.path(trunk)} are packed; unpack every .tgz where it lies")
    for name in names:
        for kind in ("wav", "flac"):
            if source.path(f"{trunk}/{name}/{kind}").is_dir():
                yield name, list(source.files(f"{trunk}/{name}/{kind}"))
                break


def _shuffled(source: Source, trunk: str) -> Iterator[tuple[str, str]]:
    audios: list[str] = []
    for _, files in _submissions(source, trunk):
        audios += files
        if len(audios) > WANTED:
            break
    random.Random(source.seed_or(1)).shuffle(audios)
    start = 0
    for split, size in _sizes(source, trunk, len(audios)).items():
        yield from ((audio, split) for audio in audios[start : start + size])
        start += size


def _speakers(source: Source, trunk: str) -> Iterator[tuple[str, str]]:
    """Whole speakers, test first; the last speaker of a split gives only what fits."""
    by_speaker: dict[str, list[str]] = {}
    for name, files in _submissions(source, trunk):
        by_speaker.setdefault(_user(name), []).extend(files)
    order = sorted(by_speaker, key=lambda user: (hashed_share(user, source.seed_or(0)), user))
    left = _sizes(source, trunk, sum(map(len, by_speaker.values())))
    splits = ["train", "valid", "test"]
    for user in order:
        taken = by_speaker[user][: left[splits[-1]]]
        yield from ((audio, splits[-1]) for audio in taken)
        left[splits[-1]] -= len(taken)
        if not left[splits[-1]]:
            splits.pop()
        if not splits:
            return


def _sizes(source: Source, trunk: str, files: int) -> dict[str, int]:
    """The published sizes, or the same shares of fewer files."""
    if files >= WANTED:
        return dict(SIZES)
    source.notice(f"{trunk} holds {files} of the {WANTED} files that the split wants; its shares are kept")
    sixth = max(files // 6, 1 if files > 2 else 0)
    return {"train": files - 2 * sixth, "valid": sixth, "test": sixth}


def _speaker(audio: str) -> str:
    return _user(audio.split("/")[-3])


def _user(submission: str) -> str:
    """The user in `<user>-<date>-<code>`; an anonymous submission stays apart."""
    user, dashes, _ = submission.rsplit("-", 2) if submission.count("-") > 1 else (submission, "", "")
    return user if dashes and not user.lower().startswith("anonymous") else submission
