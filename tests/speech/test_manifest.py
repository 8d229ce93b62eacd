"""Manifests: they round-trip, and each way to be wrong ends in one line with file and line number."""

from __future__ import annotations

import gzip
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import CorpusError, OutputExists, UnknownName
from speechprompt.speech.manifest import Corpus, Utterance, write_manifest
from speechprompt.speech.readers import read_corpus
from speechprompt.speech.units import Units

HEADER = {"manifest": 1, "name": "toy", "slots": {"colour": ["red", "blue"]}}


def row(number: int, **changes: Any) -> dict[str, Any]:
    fields = {"id": f"u{number}", "units": [number, 7], "split": ("train", "valid", "test")[number % 3]}
    return {**fields, "labels": {"colour": ("red", "blue")[number % 2]}, **changes}


def manifest(folder: Path, *lines: dict[str, Any] | str, name: str = "m.jsonl") -> Path:
    path = folder / name
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines),
        encoding="utf-8",
    )
    return path


ROWS = [row(i) for i in range(12)]

WRONG: dict[str, tuple[list[dict[str, Any] | str], str]] = {
    "bad JSON": ([HEADER, row(0), '{"id": "u1", '], r"m\.jsonl line 3: not JSON"),
    "not an object": ([HEADER, "[1, 2]"], r"m\.jsonl line 2: not a JSON object"),
    "deeply nested": ([HEADER, "[" * 100_000], r"m\.jsonl line 2: not JSON"),
    "no header": ([row(0)], r"m\.jsonl line 1: no header"),
    "future version": ([{**HEADER, "manifest": 2}, row(0)], r"m\.jsonl line 1: manifest version 2"),
    "header slots": ([{**HEADER, "slots": ["red"]}], r"m\.jsonl line 1: header field 'slots'"),
    "repeated label": ([{**HEADER, "slots": {"c": ["x", "x"]}}], r"m\.jsonl line 1: .*repeated label"),
    "header text": ([{**HEADER, "licence": []}], r"m\.jsonl line 1: 'licence' must be text"),
    "duplicate id": ([HEADER, row(0), "", row(1), row(0)], r"m\.jsonl line 5: id 'u0' .* first on line 2"),
    "no id": ([HEADER, row(0, id=None)], r"m\.jsonl line 2: no id"),
    "id not text": ([HEADER, row(0, id=[1])], r"m\.jsonl line 2: 'id' must be text"),
    "missing split": ([HEADER, row(0), row(1, split=None)], r"m\.jsonl line 3: no split"),
    "late split": ([HEADER, row(0, split=None), row(1)], r"m\.jsonl line 2: no split"),
    "unknown split": ([HEADER, row(0), row(1, split="holdout")], r"line 3: split 'holdout' is not train"),
    "fold zero": ([HEADER, row(0, split="fold0")], r"line 2: split 'fold0'"),
    "folds and train": ([HEADER, row(0, split="fold1"), row(1, split="train")], r"mixes folds"),
    "foreign label": ([HEADER, row(0, labels={"colour": "rde"})], r"line 2: label 'rde' .* mean 'red'"),
    "foreign slot": ([HEADER, row(0, labels={"color": "red"})], r"line 2: slot 'color' .* mean 'colour'"),
    "label not text": ([HEADER, row(0, labels={"colour": [1]})], r"line 2: label of slot 'colour'"),
    "labels not a map": ([HEADER, row(0, labels="red")], r"line 2: labels must be like"),
    "negative unit": ([HEADER, row(0, units=[-1])], r"line 2: a unit id is negative"),
    "unit out of range": (
        [{**HEADER, "unit_count": 50}, row(0, units=[3, 50])],
        r"line 2: unit 50 is outside",
    ),
    "huge unit": ([HEADER, row(0, units=[10**30])], r"line 2: "),
    "ragged units": ([HEADER, row(0, units=[[1], [2, 3]])], r"line 2: "),
    "durations differ": ([HEADER, row(0, durations=[1])], r"line 2: 2 units but 1 durations"),
    "nothing to hear": ([HEADER, row(0, units=None)], r"line 2: 'u0' has neither audio nor units"),
    "span backwards": ([HEADER, row(0, start_seconds=2, end_seconds=1)], r"line 2: the span 2"),
    "span not a number": ([HEADER, row(0, start_seconds="2")], r"line 2: 'start_seconds' must be a number"),
    "no rows": ([HEADER], r"m\.jsonl holds no utterances"),
    "nothing": ([], r"m\.jsonl is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_way_to_be_wrong_is_one_line_with_file_and_line(case: str, tmp_path: Path) -> None:
    lines, expected = WRONG[case]
    with pytest.raises(CorpusError, match=expected) as error:
        read_corpus(manifest(tmp_path, *lines))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("damage", ["truncated", "foreign", "flipped"])
def test_damaged_gzip_is_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl.gz"
    content = bytearray(gzip.compress("\n".join(json.dumps(r) for r in [HEADER, *ROWS]).encode()))
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes({"truncated": content[:-20], "foreign": b"text, no gzip", "flipped": content}[damage])
    with pytest.raises(CorpusError, match=r"m\.jsonl\.gz") as error:
        read_corpus(path)
    assert "\n" not in str(error.value)


def test_bytes_that_are_not_utf8_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(json.dumps(HEADER).encode() + b'\n{"id": "\xff\xfe"}\n')
    with pytest.raises(CorpusError, match="line 2: not JSON"):
        read_corpus(path)


def test_names_that_are_not_utf8_survive_writing_and_reading(tmp_path: Path) -> None:
    """As `corpora prepare` writes them."""
    name = os.fsdecode(b"b\xff.wav")
    row = Utterance(name, "test", {"colour": "red"}, tmp_path / name)
    path = write_manifest(Corpus("toy", (row,), {"colour": ("red",)}), tmp_path / "m.jsonl")
    [back] = read_corpus(path).utterances
    assert (back.id, back.audio) == (name, tmp_path / name)


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
labels = names.map(lambda text: unicodedata.normalize("NFC", text.strip())).filter(bool)


@st.composite
def utterances(draw: st.DrawFn, name: str, slots: dict[str, list[str]], folder: Path) -> Utterance:
    ids = draw(st.none() | st.lists(st.integers(0, 99), max_size=5))
    names_on_disk = st.sampled_from(["a.wav", "sub/b c.flac", "š#1?.ogg", "../up.wav"])
    audio = draw(names_on_disk if ids is None else st.none() | names_on_disk)
    f0 = st.lists(st.floats(-9, 9, width=32), min_size=len(ids or ()), max_size=len(ids or ()))
    start = draw(st.none() | st.floats(0, 10))
    return Utterance(
        name,
        draw(st.sampled_from(["train", "valid", "test"])),
        {slot: draw(st.sampled_from(members)) for slot, members in slots.items()},
        None if audio is None else folder / audio,
        start,
        None if start is None else start + 1.5,
        None if ids is None else Units(ids, [1 + i for i in ids], draw(st.none() | f0)),
        draw(st.none() | names),
        draw(st.dictionaries(names.map(lambda n: f"x_{n}"), st.integers() | names, max_size=2)),
    )


@st.composite
def corpora(draw: st.DrawFn, folder: Path) -> Corpus:
    slots = draw(st.dictionaries(names, st.lists(labels, min_size=1, max_size=4, unique=True), max_size=2))
    ids = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    first = {slot: members[0] for slot, members in slots.items()}
    fixed = [Utterance(f"fixed in {split}", split, first, units=Units([1])) for split in ("train", "valid")]
    return Corpus(
        draw(names),
        (*(draw(utterances(name, slots, folder)) for name in ids), *fixed),
        {slot: tuple(members) for slot, members in slots.items()},
        *(draw(st.none() | names) for _ in range(4)),
        header=draw(st.dictionaries(names.map(lambda n: f"x_{n}"), st.integers(), max_size=2)),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_corpus_survives_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "sub").mkdir()
    corpus = data.draw(corpora(folder))
    for name in ("m.jsonl", "m.jsonl.gz"):
        path = write_manifest(corpus, folder / name)
        back = read_corpus(path)
        assert back.notices == ()
        assert [_comparable(u) for u in back.utterances] == [_comparable(u) for u in corpus.utterances]
        for key in ("name", "slots", "tokenizer", "licence", "citation", "split_rule", "header"):
            assert getattr(back, key) == getattr(corpus, key)
        first = path.read_bytes()
        assert write_manifest(back, path, force=True).read_bytes() == first


def _comparable(utterance: Utterance) -> tuple[Any, ...]:
    audio = None if utterance.audio is None else utterance.audio.resolve()
    span = utterance.start_seconds, utterance.end_seconds
    rest = utterance.units, utterance.speaker, utterance.extra
    return (utterance.id, utterance.split, utterance.labels, audio, *span, *rest)


def test_a_manifest_written_elsewhere_still_finds_its_audio(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.wav").write_bytes(b"x")
    corpus = read_corpus(manifest(tmp_path / "clips", HEADER, row(0, audio="a.wav"), row(1, audio="a.wav")))
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    moved = read_corpus(write_manifest(corpus, tmp_path / "link" / "m.jsonl"))
    audio = moved.utterances[0].audio
    assert audio is not None
    assert audio.samefile(tmp_path / "clips" / "a.wav")
    assert not json.loads((tmp_path / "link" / "m.jsonl").read_text().splitlines()[1])["audio"].startswith(
        "/"
    )


def test_nothing_is_overwritten_without_force_and_no_temporary_stays(tmp_path: Path) -> None:
    corpus = read_corpus(manifest(tmp_path, HEADER, *ROWS))
    target = tmp_path / "new" / "out.jsonl.gz"
    write_manifest(corpus, target)
    before = target.read_bytes()
    with pytest.raises(OutputExists):
        write_manifest(corpus, target)
    write_manifest(corpus, target, force=True)
    assert target.read_bytes() == before
    assert [p.name for p in target.parent.iterdir()] == ["out.jsonl.gz"]


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    corpus = read_corpus(manifest(tmp_path, HEADER, *ROWS))
    target = write_manifest(corpus, tmp_path / "out.jsonl")
    before = target.read_bytes()
    broken = Corpus("x", (Utterance("u", "train", {}, extra={"key": object()}),), {})
    with pytest.raises(TypeError):
        write_manifest(broken, target, force=True)
    assert target.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.jsonl", "out.jsonl"]


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    path = manifest(tmp_path, {**HEADER, "origin": "here"}, row(0, copy=3), row(1))
    corpus = read_corpus(path)
    assert corpus.header == {"origin": "here"}
    assert corpus.utterances[0].extra == {"copy": 3}


@pytest.mark.parametrize("key", ["id", "audio", "units", "f0", "durations", "labels", "split", "speaker"])
def test_other_columns_do_not_replace_a_manifests_own_keys(tmp_path: Path, key: str) -> None:
    written = [
        Utterance(name, "train", {"colour": "red"}, units=Units([1, 7], [2, 2], [0.5, 1.0]), extra=extra)
        for name, extra in (("a", {key: "440"}), ("b", {key: "440", "room": "kitchen"}))
    ]
    corpus = Corpus("toy", tuple(written), {"colour": ("red",)}, header={"name": "other", "take": 3})
    back = read_corpus(write_manifest(corpus, tmp_path / "m.jsonl"))
    assert [u.extra for u in back.utterances if u.id in "ab"] == [{}, {"room": "kitchen"}]
    assert [(u.id, u.labels, u.units) for u in back.utterances] == [
        (u.id, u.labels, u.units) for u in written
    ]
    assert (back.name, back.header) == ("toy", {"take": 3})


def test_another_split_field_is_read_and_its_aliases_are_told(tmp_path: Path) -> None:
    official = ["train", "dev", "evaluation"]
    path = manifest(tmp_path, HEADER, *(row(i, official_split=official[i % 3]) for i in range(6)))
    corpus = read_corpus(path, split_field="official_split")
    assert corpus.splits() == {"train": 2, "valid": 2, "test": 2}
    assert [u.split for u in corpus.utterances[:3]] == ["train", "valid", "test"]
    assert corpus.notices == ("split 'dev' read as valid", "split 'evaluation' read as test")


def test_slots_are_chosen_ordered_and_suggested(tmp_path: Path) -> None:
    header = {**HEADER, "slots": {"a": ["x", "y"], "bread": ["1", "2"]}}
    path = manifest(
        tmp_path, header, *(row(i, labels={"a": "xy"[i % 2], "bread": 1 + i % 2}) for i in range(6))
    )
    assert list(read_corpus(path, slots=["bread", "a"]).slots.items()) == [
        ("bread", ("1", "2")),
        ("a", ("x", "y")),
    ]
    assert read_corpus(path, slots=["bread"]).utterances[0].labels == {"bread": "1"}
    with pytest.raises(UnknownName, match="did you mean bread"):
        read_corpus(path, slots=["bred"])


def test_a_row_without_a_label_for_a_slot_asked_for_is_named(tmp_path: Path) -> None:
    path = manifest(tmp_path, HEADER, row(0), row(1), row(2, labels={}))
    assert read_corpus(path).utterances[2].labels == {}
    with pytest.raises(CorpusError, match=r"line 4: 'u2' has no label for slot 'colour'"):
        read_corpus(path, slots=["colour"])


@pytest.mark.parametrize(("on_disk", "written"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_names_match_in_either_unicode_form(on_disk: str, written: str, tmp_path: Path) -> None:
    folder = tmp_path / unicodedata.normalize(on_disk, "šešios")
    folder.mkdir()
    clip = folder / unicodedata.normalize(on_disk, "žodis.wav")
    clip.write_bytes(b"x")
    name = unicodedata.normalize(written, "šešios/žodis.wav")
    path = manifest(
        tmp_path, {"manifest": 1}, row(0, audio=name, labels={"w": unicodedata.normalize(written, "šeši")})
    )
    utterance = read_corpus(path).utterances[0]
    assert utterance.audio is not None
    assert utterance.audio.samefile(clip)
    assert utterance.labels == {"w": unicodedata.normalize("NFC", "šeši")}


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_manifests_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray("\n".join(json.dumps(line) for line in [HEADER, *ROWS]).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.jsonl"
    path.write_bytes(bytes(content))
    try:
        assert read_corpus(path).utterances
    except CorpusError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert str(path) in str(error) or "mixes" in str(error)  # noqa: PT017


def test_a_folder_that_holds_a_manifest_is_that_manifest(tmp_path: Path) -> None:
    manifest(tmp_path, HEADER, *ROWS, name="manifest.jsonl")
    assert len(Corpus.from_folder(tmp_path).utterances) == 12
    assert Corpus.read(str(tmp_path)).name == "toy"
    with pytest.raises(CorpusError, match="not a folder"):
        Corpus.from_folder(tmp_path / "manifest.jsonl")


@pytest.mark.parametrize("source", ["nowhere.jsonl", "some/deep/nowhere", "data/nowhere.csv", "clip.wav"])
def test_a_source_that_is_not_there_says_so(source: str) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        read_corpus(source)


def test_a_file_that_is_no_corpus_says_so(tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(b"x")
    with pytest.raises(CorpusError, match="is no corpus"):
        read_corpus(tmp_path / "clip.wav")
