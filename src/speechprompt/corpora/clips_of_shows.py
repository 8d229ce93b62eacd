"""What the two sarcasm corpora share: clips of shows, as video or as extracted audio, and their speakers."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from speechprompt.corpora.source import AUDIO_SUFFIXES, VIDEO_SUFFIXES, Source, stem
from speechprompt.corpora.splitting import dealt

SARCASM = ("not_sarcastic", "sarcastic")


def clips(source: Source, names: Collection[str]) -> dict[str, str]:
    """The clips by name: extracted audio, else video (which the `media` extra reads).

    Where some of `names` are missing, they may lie beside the folder of the annotations, as a clone and an
    archive unpacked side by side do.
    """
    found = _clips_in(source, "")
    if source.given != source.root and not found.keys() >= set(names):
        found = _clips_in(source, os.path.relpath(source.given, source.root)) | found
    if any(path.lower().endswith(VIDEO_SUFFIXES) for path in found.values()):
        source.notice(
            "clips are video: reading them needs the `media` extra, or extract .wav files beside them"
        )
    return found


def _clips_in(source: Source, folder: str) -> dict[str, str]:
    found = {stem(path): path for path in source.files(folder, VIDEO_SUFFIXES)}
    return found | {stem(path): path for path in source.files(folder, AUDIO_SUFFIXES)}


def clip(source: Source, found: Mapping[str, str], name: str) -> str | None:
    """The path of a clip; one that is not there is skipped or an error."""
    if name not in found:
        source.skip(f"{name}{VIDEO_SUFFIXES[0]}", "is listed but not there, nor its audio")
    return found.get(name)


def by_speaker(speakers: Sequence[tuple[str, str]], seed: int) -> dict[tuple[str, str], str]:
    """Whole (show, speaker) pairs dealt 80/10/10; minor roles named PERSON are one speaker of their show."""
    strata = {f"{show}/{speaker}": show for show, speaker in speakers}
    splits = dealt(strata, seed)
    return {pair: splits["/".join(pair)] for pair in speakers}
