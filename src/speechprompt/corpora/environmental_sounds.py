"""The ESC corpora: five folds of five-second clips, `<fold>-<source>-<take>-<target>.wav`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from speechprompt.corpora.protocol import Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import SPLITS, marked, sklearn_split
from speechprompt.corpora.tables import read_table
from speechprompt.errors import CorpusError

SOUNDS = (
    *("dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow"),
    *("rain", "sea_waves", "crackling_fire", "crickets", "chirping_birds"),
    *("water_drops", "wind", "pouring_water", "toilet_flush", "thunderstorm"),
    *("crying_baby", "sneezing", "clapping", "breathing", "coughing"),
    *("footsteps", "laughing", "brushing_teeth", "snoring", "drinking_sipping"),
    *("door_wood_knock", "mouse_click", "keyboard_typing", "door_wood_creaks", "can_opening"),
    *("washing_machine", "vacuum_cleaner", "clock_alarm", "clock_tick", "glass_breaking"),
    *("helicopter", "chainsaw", "siren", "car_horn", "engine"),
    *("train", "church_bells", "airplane", "fireworks", "hand_saw"),
)
TEN = (
    *("dog", "rooster", "rain", "sea_waves", "crackling_fire"),
    *("crying_baby", "sneezing", "clock_tick", "helicopter", "chainsaw"),
)
TABLE = "esc50.csv"
SPLIT_RULES = {
    "paper": "fold 1 test, a fifth of the rest valid (scikit-learn, seed 1, the order of the table); train "
    "and valid may hold clips of one recording",
    "folds": "the five official folds (clips of one recording stay in one fold)",
}


class Clip(NamedTuple):
    """A clip with its sound and fold (1 to 5); `audio` may be absent, so that a gap moves no other clip."""

    audio: str
    sound: str
    fold: int


def rows(source: Source, clips: list[Clip]) -> Iterator[Row]:
    """Clips under the rule of the reading."""
    rest = [place for place, clip in enumerate(clips) if clip.fold != 1]
    test = [place for place, clip in enumerate(clips) if clip.fold == 1]
    marks = marked(len(clips), sklearn_split(rest, 0.2, source.seed_or(1))[1], test)
    for place, clip in enumerate(clips):
        split = f"fold{clip.fold}" if source.rule == "folds" else SPLITS[marks[place]]
        if source.has(clip.audio):
            yield Row(clip.audio, split, {"sound": clip.sound})


def table_clips(source: Source) -> list[Clip] | None:
    """The clips of `meta/esc50.csv` or of the split list; None when there is neither."""
    path = source.split_list or source.find(f"meta/{TABLE}", TABLE)
    if path is None:
        return None
    if path.is_dir():
        path = path / TABLE
    if not path.is_file():
        raise CorpusError(f"no split list at {path}; pass {TABLE} with --split-list")
    clips: dict[str, Clip] = {}
    for line in read_table(path, columns=("filename", "fold", "category")):
        name, fold = line["filename"], line["fold"]
        if fold not in ("1", "2", "3", "4", "5"):
            raise CorpusError(f"{path}: {name} is in fold '{fold}'; fetch the published table")
        clips[name] = Clip(
            source.first(f"audio/{name}", name) or f"audio/{name}", line["category"], int(fold)
        )
    return list(clips.values())


def named_clips(source: Source) -> list[Clip]:
    """The clips of `audio/`, whose names hold fold and target."""
    source.notice(f"no meta/{TABLE}: folds and sounds are read from file names")
    clips = []
    for audio in source.files("audio" if source.path("audio").is_dir() else ""):
        fields = audio.rpartition("/")[2].rpartition(".")[0].split("-")
        if len(fields) == 4 and fields[0] in "12345" and fields[3].isdigit() and int(fields[3]) < len(SOUNDS):
            clips.append(Clip(audio, SOUNDS[int(fields[3])], int(fields[0])))
    return clips
