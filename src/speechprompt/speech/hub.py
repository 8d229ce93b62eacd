"""Hugging Face data sets, through the optional `datasets` package; their audio stays encoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechprompt.downloads import home
from speechprompt.errors import CorpusError, MissingExtra, UnknownName
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.rows import Row, Source, assemble, check_split_field, label_text


def read_hub(identifier: str, slots: Sequence[str] | None, split_field: str, seed: int) -> Corpus:
    """Read `owner/name` or `owner/name:config`.

    MissingExtra without `datasets`; CorpusError when it cannot be loaded or has no audio column. Side
    effects: downloads it into the `datasets` cache; writes clips that it stores inline under the home folder.
    """
    try:
        import datasets
    except ImportError as error:
        purpose = f"{identifier} is no path here, and reading it as a Hugging Face data set"
        raise MissingExtra("datasets", "datasets", purpose) from error
    name, _, config = identifier.partition(":")
    try:
        loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # the package raises from a dozen libraries; all of it means "not loaded"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        text = f"{identifier} is no path here, and no data set that could be loaded ({reason})"
        raise CorpusError(f"{text}; check the name") from error
    return from_datasets(loaded, name, slots, split_field, seed)


def from_datasets(
    loaded: Any, name: str, slots: Sequence[str] | None = None, split_field: str = "split", seed: int = 0
) -> Corpus:
    """A loaded `datasets.DatasetDict` (or one `Dataset`) as a corpus.

    Labels are the columns in `slots`, else `label`; the order of a ClassLabel is kept. A column named
    `split_field` beats the data set's own splits.
    """
    import datasets

    parts: dict[str | None, Any] = dict(loaded) if isinstance(loaded, dict) else {None: loaded}
    if len(parts) == 1 and "train" in parts:
        parts = {None: parts["train"]}  # a single part called train is how unsplit data sets are stored
    features: Mapping[str, Any] = next(iter(parts.values())).features
    check_split_field(split_field, features)
    audio = next((key for key, feature in features.items() if isinstance(feature, datasets.Audio)), None)
    if audio is None:
        raise CorpusError(f"data set {name} has no audio column, only {', '.join(features)}")
    for slot in slots or ():
        if slot not in features:
            raise UnknownName("slot", slot, features)
    chosen = tuple(slots) if slots is not None else ("label",) if "label" in features else ()
    notice = f"{name} has no column named label; --slots names others (of {', '.join(features)})"
    encoded = {split: part.cast_column(audio, datasets.Audio(decode=False)) for split, part in parts.items()}
    names = {slot: getattr(features[slot], "names", None) for slot in chosen}
    ordered = {slot: tuple(label_text(n) or "" for n in ns) for slot, ns in names.items() if ns is not None}
    source = Source(
        name,
        name,
        ordered if len(ordered) == len(chosen) and chosen else None,
        notices=() if chosen else (notice,),
    )
    return assemble(source, _rows(encoded, name, audio, names, split_field), slots, seed)


def _rows(
    parts: Mapping[str | None, Any],
    name: str,
    audio: str,
    names: Mapping[str, Sequence[str] | None],
    split_field: str,
) -> Iterator[Row]:
    for split, part in parts.items():
        for number, fields in enumerate(part):
            labels = {slot: _label(fields[slot], slot_names) for slot, slot_names in names.items()}
            stated = fields.get(split_field)
            speaker = next((fields[k] for k in ("speaker", "speaker_id") if fields.get(k) is not None), None)
            used = {audio, "speaker", "speaker_id", split_field, *names}
            yield Row(
                None,
                f"{split or 'row'}/{number}",
                {slot: label for slot, label in labels.items() if label is not None},
                split if stated is None else str(stated),
                _clip(fields[audio], name),
                speaker=None if speaker is None else str(speaker),
                extra={k: v for k, v in fields.items() if k not in used and isinstance(v, str | int | float)},
            )


def _label(value: Any, names: Sequence[str] | None) -> str | None:
    if names is None or value is None:
        return label_text(value)
    return label_text(names[value]) if 0 <= value < len(names) else None


def _clip(stored: Mapping[str, Any] | None, name: str) -> Path:
    """The file of a clip; one stored inline is written once, under its hash."""
    if stored is None:
        raise CorpusError(f"data set {name} has a row without audio; remove it")
    content = stored.get("bytes")
    if content is None:
        return Path(stored["path"])
    folder = home() / "hub" / name.replace("/", "--")
    suffix = Path(stored.get("path") or "").suffix
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return path
