"""Sources of JSON lines: the project's manifest and NeMo's; plain or gzipped."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechprompt.errors import CorpusError, UnitsError
from speechprompt.speech.manifest import HEADER_KEYS, MANIFEST_VERSION, ROW_KEYS, Corpus
from speechprompt.speech.rows import Row, Source, assemble, check_split_field, label_text, located
from speechprompt.speech.units import Units

_NEMO_AUDIO = ("audio_filepath", "file_name")
"""What names a row's audio: in NeMo, and in the metadata.jsonl of a Hugging Face audiofolder."""
_NEMO_KEYS = frozenset((*_NEMO_AUDIO, "offset", "duration", "split", "speaker", "id"))
_NEMO_LABELS = ("label", "command", "intent")

Lines = Iterator[tuple[int, dict[str, Any]]]


def read_jsonl(path: Path, slots: Sequence[str] | None, split_field: str, seed: int) -> Corpus:
    """Read a manifest, a NeMo manifest or a metadata.jsonl; which one, the first line tells."""
    lines = _objects(path)
    first = next(lines, None)
    if first is None:
        raise CorpusError(f"{path} is empty; check that it is the file you mean")
    if any(key in first[1] for key in _NEMO_AUDIO):
        corpus = _read_nemo(path, first, lines, slots, split_field, seed)
    else:
        source = _source(path, *first)
        units = _UnitReader(source)
        rows = (_manifest_row(source, path.parent, units, split_field, *line) for line in lines)
        corpus = assemble(source, rows, slots, seed)
    check_split_field(split_field, dict.fromkeys(field for u in corpus.utterances for field in u.extra))
    return corpus


def _objects(path: Path) -> Lines:
    """Line number and JSON object of each line that is not blank."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as raw:
            for number, line in enumerate(raw, start=1):
                if not line.strip():
                    continue
                fields = json.loads(line if number > 1 else line.removeprefix(b"\xef\xbb\xbf"))
                if not isinstance(fields, dict):
                    raise CorpusError(f"{path} line {number}: not a JSON object; each line must be one")
                yield number, fields
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"{path} is not a whole gzip file (read {number} lines); copy it again") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path} line {number}: not JSON ({error})") from error
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror or error}); check the path") from error


def _source(path: Path, line: int, header: Mapping[str, Any]) -> Source:
    plain = Source(str(path), path.name)
    if "manifest" not in header:
        raise plain.error(line, 'no header; the first line of a manifest is {"manifest": 1, "name": …}')
    if header["manifest"] != MANIFEST_VERSION:
        text = f"manifest version {header['manifest']!r}, but this release reads {MANIFEST_VERSION}"
        raise plain.error(line, f"{text}; upgrade, or write the corpus again")
    return Source(
        str(path),
        _text(plain, line, header, "name") or path.name.split(".")[0],
        _header_slots(plain, line, header),
        _text(plain, line, header, "tokenizer"),
        _text(plain, line, header, "licence"),
        _text(plain, line, header, "citation"),
        _text(plain, line, header, "split_rule"),
        {key: value for key, value in header.items() if key not in HEADER_KEYS},
    )


def _header_slots(source: Source, line: int, header: Mapping[str, Any]) -> dict[str, tuple[str, ...]] | None:
    slots = header.get("slots")
    if slots is None:
        return None
    if not isinstance(slots, dict) or not all(isinstance(labels, list) for labels in slots.values()):
        raise source.error(line, 'header field \'slots\' must be like {"colour": ["red", "blue"]}')
    ordered = {slot: tuple(label_text(label) or "" for label in labels) for slot, labels in slots.items()}
    for slot, labels in ordered.items():
        if len(set(labels)) < len(labels) or "" in labels:
            raise source.error(line, f"slot '{slot}' of the header has an empty or repeated label")
    return ordered


def _manifest_row(
    source: Source, folder: Path, units: _UnitReader, split_field: str, line: int, fields: dict[str, Any]
) -> Row:
    get = fields.get
    audio = get("audio")
    row = Row(
        line,
        _text(source, line, fields, "id") or "",
        _labels(source, line, get("labels")),
        _text(source, line, fields, split_field),
        None if audio is None else located(folder, _text(source, line, fields, "audio") or ""),
        _seconds(source, line, fields, "start_seconds"),
        _seconds(source, line, fields, "end_seconds"),
        units.read(line, fields),
        _text(source, line, fields, "speaker"),
        {key: value for key, value in fields.items() if key not in ROW_KEYS},
    )
    if not row.id:
        raise source.error(line, "no id; give every row a unique one")
    if audio is None and row.units is None:
        raise source.error(line, f"'{row.id}' has neither audio nor units; it needs one of them")
    return row


class _UnitReader:
    """Units of a row, within the header's `unit_count` where it states one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        count = source.header.get("unit_count")
        self._count = count if isinstance(count, int) else None

    def read(self, line: int, fields: Mapping[str, Any]) -> Units | None:
        ids = fields.get("units")
        if ids is None:
            return None
        try:
            units = Units(ids, fields.get("durations"), fields.get("f0"))
        except (UnitsError, ValueError, TypeError, OverflowError) as error:
            raise self._source.error(line, f"{error}; encode this row again") from error
        if self._count is not None and len(units) and units.ids.max() >= self._count:
            text = f"unit {units.ids.max()} is outside the header's unit_count of {self._count}"
            raise self._source.error(line, f"{text}; encode this row again")
        return units


def _labels(source: Source, line: int, labels: Any) -> dict[str, str]:
    if labels is None:
        return {}
    if not isinstance(labels, dict):
        raise source.error(line, 'labels must be like {"colour": "red"}')
    texts: dict[str, str] = {}
    for slot, label in labels.items():
        if not isinstance(label, (str, int, type(None))):
            raise source.error(line, f"label of slot '{slot}' must be text")
        if (text := label_text(label)) is not None:
            texts[slot] = text
    return texts


def _text(source: Source, line: int, fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    raise source.error(line, f"'{key}' must be text")


def _seconds(source: Source, line: int, fields: Mapping[str, Any], key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise source.error(line, f"'{key}' must be a number of seconds")
    return float(value)


def _read_nemo(
    path: Path,
    first: tuple[int, dict[str, Any]],
    rest: Lines,
    slots: Sequence[str] | None,
    split_field: str,
    seed: int,
) -> Corpus:
    """NeMo's manifest or metadata.jsonl: a line an utterance, no header; `slots` name the keys that hold labels."""
    known = next(((key,) for key in _NEMO_LABELS if key in first[1]), ())
    chosen = tuple(slots) if slots is not None and all(slot in first[1] for slot in slots) else known
    source = Source(str(path), path.name.split(".")[0])

    def rows() -> Iterator[Row]:
        yield _nemo_row(source, path.parent, chosen, split_field, *first)
        for line in rest:
            yield _nemo_row(source, path.parent, chosen, split_field, *line)

    return assemble(source, rows(), slots, seed)


def _nemo_row(
    source: Source, folder: Path, slots: tuple[str, ...], split_field: str, line: int, fields: dict[str, Any]
) -> Row:
    name = next((found for key in _NEMO_AUDIO if (found := _text(source, line, fields, key))), None)
    if not name:
        raise source.error(line, f"no {' or '.join(_NEMO_AUDIO)}")
    start = _seconds(source, line, fields, "offset")
    length = _seconds(source, line, fields, "duration")
    end = None if start is None or length is None else start + length
    used = _NEMO_KEYS | set(slots)
    return Row(
        line,
        _text(source, line, fields, "id") or (name if start is None else f"{name}@{start:g}"),
        _labels(source, line, {slot: fields.get(slot) for slot in slots}),
        _text(source, line, fields, split_field),
        located(folder, name),
        start,
        end,
        speaker=_text(source, line, fields, "speaker"),
        extra={key: value for key, value in fields.items() if key not in used},
    )
