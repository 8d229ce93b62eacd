"""Every layout that users bring, read to the same kind of corpus."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechprompt.corpora.source import Source as CorpusFolder
from speechprompt.errors import CorpusError, MissingExtra, UnknownName, UsageError
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.readers import read_corpus

FIFTEEN = [f"{i:02d}.wav" for i in range(15)]


def clips(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(160, hash(name) % 100 / 200, np.float32), 16_000, format="WAV")


def table(folder: Path, text: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_label_folders_get_splits_and_the_user_is_told(tmp_path: Path) -> None:
    clips(tmp_path, *(f"{label}/{name}" for label in ("yes", "no") for name in FIFTEEN), "yes/deep/er.wav")
    corpus = Corpus.from_folder(tmp_path)
    assert corpus.slots == {"label": ("no", "yes")}
    assert len(corpus.utterances) == 31
    assert {u.labels["label"] for u in corpus.utterances if u.id.startswith("yes/")} == {"yes"}
    assert set(corpus.splits()) == {"train", "valid", "test"}
    for split in ("train", "valid", "test"):
        assert {u.labels["label"] for u in corpus.split(split)} == {"yes", "no"}
    assert "10% valid and 10% test drawn by hash (seed 0)" in corpus.notices[0]
    assert corpus == Corpus.from_folder(tmp_path)
    assert [u.split for u in corpus.utterances] != [
        u.split for u in Corpus.from_folder(tmp_path, seed=1).utterances
    ]


def test_split_folders_above_label_folders(tmp_path: Path) -> None:
    clips(tmp_path, "train/yes/a.wav", "train/no/a.wav", "validation/yes/a.wav", "test/no/a.wav")
    corpus = read_corpus(tmp_path)
    assert corpus.splits() == {"train": 2, "valid": 1, "test": 1}
    assert corpus.slots == {"label": ("no", "yes")}
    assert corpus.notices == ("split 'validation' read as valid",)


def test_a_label_that_is_called_test_is_a_label_beside_others(tmp_path: Path) -> None:
    clips(tmp_path, *(f"{label}/{name}" for label in ("test", "alarm") for name in FIFTEEN))
    assert read_corpus(tmp_path).slots == {"label": ("alarm", "test")}


def test_hidden_and_foreign_files_are_left_out_and_stray_audio_is_told(tmp_path: Path) -> None:
    clips(tmp_path, "yes/a.wav", "no/a.wav", "stray.wav", ".cache/x.wav", "yes/._a.wav")
    (tmp_path / "yes" / "notes.txt").write_text("not audio")
    corpus = read_corpus(tmp_path)
    assert sorted(u.id for u in corpus.utterances) == ["no/a.wav", "yes/a.wav"]
    assert corpus.notices[0].startswith("1 audio files")


def test_a_flat_folder_has_no_labels_but_can_be_encoded(tmp_path: Path) -> None:
    clips(tmp_path, *FIFTEEN)
    corpus = read_corpus(tmp_path)
    assert corpus.slots == {}
    assert "no labels" in corpus.notices[0]


def test_a_folder_without_audio_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no audio"):
        read_corpus(tmp_path)


def test_label_folders_are_nfc_whatever_the_disk_says(tmp_path: Path) -> None:
    clips(tmp_path, f"{unicodedata.normalize('NFD', 'šeši')}/a.wav", "du/a.wav")
    corpus = read_corpus(tmp_path)
    assert corpus.slots == {"label": ("du", unicodedata.normalize("NFC", "šeši"))}
    assert all(u.audio is not None and u.audio.exists() for u in corpus.utterances)


def test_a_table_with_every_column(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "\ufeffpath,label,split,speaker,start,end,note\r\n"
        '"a, b.wav",yes,train,ann,0.5,1.25,"x\ny"\r\n'
        "c.wav,no,dev,bob,,,\r\n"
        "d.wav,yes,train,,0,,\r\n",
    )
    corpus = read_corpus(path)
    first, second, third = corpus.utterances
    assert (first.id, first.split, first.labels, first.speaker) == (
        "a, b.wav@0.5",
        "train",
        {"label": "yes"},
        "ann",
    )
    assert (first.start_seconds, first.end_seconds, first.extra) == (0.5, 1.25, {"note": "x\ny"})
    assert first.audio == tmp_path / "a, b.wav"
    assert (second.id, second.split, second.start_seconds) == ("c.wav", "valid", None)
    assert (third.start_seconds, third.end_seconds, third.speaker) == (0.0, None, None)


@pytest.mark.parametrize(
    ("separator", "name"), [("\t", "l.tsv"), (";", "l.csv"), ("\t", "l.csv"), ("\t", "l.txt")]
)
def test_other_separators(separator: str, name: str, tmp_path: Path) -> None:
    lines = ["path|label|split", "a.wav|x, y|train", "b.wav|z|valid"]
    path = table(tmp_path, "\n".join(lines).replace("|", separator), name)
    assert read_corpus(path).slots == {"label": ("x, y", "z")}


def test_several_label_columns(tmp_path: Path) -> None:
    path = table(tmp_path, "path,action,object,split\na.wav,on,light,train\nb.wav,off,heat,valid\n")
    assert read_corpus(path, slots=["object", "action"]).utterances[0].labels == {
        "object": "light",
        "action": "on",
    }
    unlabelled = read_corpus(path)
    assert unlabelled.slots == {}
    assert "--slots names others" in unlabelled.notices[0]
    assert unlabelled.utterances[0].extra == {"action": "on", "object": "light"}
    with pytest.raises(UnknownName, match="did you mean action"):
        read_corpus(path, slots=["acton"])
    with pytest.raises(UsageError, match=r"'path' of .* says where the audio is"):
        read_corpus(path, slots=["path"])
    with pytest.raises(UsageError, match="action, action name one twice"):
        read_corpus(path, slots=["action", "action"])


def manifest_without_splits(folder: Path, stated: str | None = None) -> Path:
    """Thirty rows whose labels of two slots are rare enough that drawn splits are repaired."""
    rows: list[dict[str, object]] = [{"manifest": 1, "name": "two"}]
    for i in range(30):
        labels = {"action": f"a{i % 6}", "object": f"o{i % 10}"}
        rows.append({"id": f"u{i}", "units": [i], "labels": labels} | ({"split": stated} if stated else {}))
    return table(folder, "".join(json.dumps(row) + "\n" for row in rows), "m.jsonl")


@pytest.mark.parametrize("stated", [None, "train"])
def test_drawn_splits_do_not_depend_on_the_slots_that_are_read(tmp_path: Path, stated: str | None) -> None:
    path = manifest_without_splits(tmp_path, stated)
    whole = read_corpus(path)
    for slots in (["action"], ["object"], ["object", "action"]):
        part = read_corpus(path, slots)
        assert [(u.id, u.split) for u in part.utterances] == [(u.id, u.split) for u in whole.utterances]
        assert part.split_rule == whole.split_rule
        assert list(part.slots) == list(part.utterances[0].labels) == slots
    assert "labels of action and object" in whole.notices[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("path,label\n", "holds no utterances"),
        ("label,split\nyes,train\n", r"line 1: no column named path"),
        ("path,label,label\na.wav,x,y\n", r"line 1: a column is named twice"),
        ("path,label\na.wav,x\nb.wav\n", r"line 3: 1 cells"),
        ("path,label\na.wav,x\na.wav,x\n", r"line 3: id 'a\.wav' is used twice, first on line 2"),
        ("path,label,split\na.wav,x,train\nb.wav,y,holdout\n", r"line 3: split 'holdout'"),
        ("path,label,split\na.wav,x,train\nb.wav,y,\n", r"line 3: no split"),
        ("path,label,start\na.wav,x,soon\n", r"line 2: start 'soon' is not a number"),
        ("path,label,start,end\na.wav,x,2,1\n", r"line 2: the span"),
        ("path,label,start\na.wav,x,nan\n", r"line 2: the span"),
        (",x\n", r"line 1: no column named path"),
        ("path,label\n,x\n", r"line 2: no path"),
        ('path,label\n"a.wav,x\n', r"not a table"),
    ],
)
def test_wrong_tables_are_one_line_with_file_and_line(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=expected) as error:
        read_corpus(table(tmp_path, text))
    assert "list.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_in_another_encoding_says_so(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("path,label\na.wav,é\n".encode("latin-1"))
    with pytest.raises(CorpusError, match="UTF-8"):
        read_corpus(path)


def test_metadata_in_a_folder_and_in_split_folders(tmp_path: Path) -> None:
    flat, nested, prefixed = tmp_path / "flat", tmp_path / "nested", tmp_path / "prefixed"
    for folder in (flat, nested / "train", nested / "test", prefixed):
        folder.mkdir(parents=True)
    table(flat, "file_name,label,split\na.wav,x,train\nb.wav,y,valid\n", "metadata.csv")
    table(nested / "train", "file_name,label\na.wav,x\nb.wav,x\nc.wav,y\n", "metadata.csv")
    table(nested / "test", "file_name,label\na.wav,x\n", "metadata.csv")
    table(prefixed, "file_name,label\ntrain/a.wav,x\nval/a.wav,x\n", "metadata.csv")
    assert read_corpus(flat).splits() == {"train": 1, "valid": 1}
    corpus = read_corpus(nested)
    assert corpus.splits() == {"train": 2, "valid": 1, "test": 1}
    assert corpus.split("test")[0].audio == nested / "test" / "a.wav"
    assert "of train" in corpus.notices[-1]
    assert read_corpus(prefixed).splits() == {"train": 1, "valid": 1}
    table(nested / "test", "file_name,label\na.wav,x\na.wav,y\n", "metadata.csv")
    with pytest.raises(CorpusError, match=r"nested line 3 of test/metadata\.csv: id 'test/a\.wav' is used"):
        read_corpus(nested)


def test_nemo(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"audio_filepath": "a.wav", "duration": 1.5, "offset": 0.5, "command": "yes", "split": "train"},
        {"audio_filepath": "a.wav", "duration": 1.0, "command": "no", "split": "valid", "text": "no"},
    ]
    for name in ("nemo.jsonl", "nemo.json"):
        path = table(tmp_path, "\n".join(map(json.dumps, lines)), name)
        first, second = read_corpus(path).utterances
        assert (first.start_seconds, first.end_seconds, first.labels) == (0.5, 2.0, {"command": "yes"})
        assert (second.start_seconds, second.end_seconds, second.extra) == (None, None, {"text": "no"})
    with pytest.raises(CorpusError, match="line 2: no audio_filepath or file_name"):
        read_corpus(table(tmp_path, json.dumps(lines[0]) + '\n{"duration": 1}', "nemo.jsonl"))
    with pytest.raises(UnknownName, match="did you mean command"):
        read_corpus(path, slots=["comand"])


def hub(count: int = 6) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        audio=datasets.Audio(16_000, decode=False),
        label=datasets.ClassLabel(names=["yes", "no"]),
        mood=datasets.Value("string"),
        speaker_id=datasets.Value("int64"),
    )
    rows = {
        "audio": [{"bytes": b"RIFF" + bytes([i]), "path": f"{i}.wav"} for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "mood": [("calm", "wild")[i % 2] for i in range(count)],
        "speaker_id": list(range(count)),
    }
    return datasets.Dataset.from_dict(rows).cast(features)


def test_a_data_set_of_hugging_face(fresh_home: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from speechprompt.speech.hub import from_datasets

    corpus = from_datasets(datasets.DatasetDict(train=hub(6), validation=hub(2)), "owner/name")
    assert corpus.slots == {"label": ("yes", "no")}
    assert corpus.splits() == {"train": 6, "valid": 2}
    first = corpus.utterances[0]
    assert first.audio is not None
    assert first.audio.is_relative_to(fresh_home)
    assert first.audio.read_bytes() == b"RIFF\x00"
    assert (first.speaker, first.labels, first.extra) == ("0", {"label": "yes"}, {"mood": "calm"})
    assert from_datasets(hub(), "owner/name", slots=["mood"]).slots == {"mood": ("calm", "wild")}
    with pytest.raises(UnknownName, match="did you mean mood"):
        from_datasets(hub(), "owner/name", slots=["mod"])
    with pytest.raises(CorpusError, match="no audio column"):
        from_datasets(datasets.Dataset.from_dict({"x": [1]}), "owner/name")


def test_a_data_set_saved_as_parquet_is_loaded_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    hub(40).to_parquet(tmp_path / "train.parquet")
    load = datasets.load_dataset

    def stand_in(name: str, config: str | None) -> Any:
        assert (name, config) == ("owner/name", "small")
        return load("parquet", data_files={"train": "train.parquet"}, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    for source in ("hf:owner/name:small", "owner/name:small"):
        corpus = read_corpus(source)
        assert set(corpus.splits()) == {"train", "valid", "test"}
        assert len(corpus.utterances) == 40


def test_a_data_set_that_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def refuse(*_: object) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(CorpusError, match=r"owner/name is no path here.*\(no network\)") as error:
        read_corpus("owner/name")
    assert "\n" not in str(error.value)


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"^data/clips is no path here"):
        read_corpus("data/clips")
    with pytest.raises(MissingExtra, match=r"pip install -e '\.\[datasets\]'"):
        read_corpus("hf:owner/name")


def test_a_folder_beside_split_folders_is_no_label(tmp_path: Path) -> None:
    clips(
        tmp_path,
        *(f"{split}/{word}/{i}.wav" for split in ("train", "test") for word in ("no", "yes") for i in "12"),
    )
    clips(tmp_path, "extra/no/1.wav")
    with pytest.raises(CorpusError, match=r"holds the splits test and train, and beside them 'extra'"):
        Corpus.from_folder(tmp_path)


def test_words_that_are_names_of_splits_are_labels(tmp_path: Path) -> None:
    clips(tmp_path, *(f"{word}/{i}.wav" for word in ("train", "test", "bus") for i in "1234"))
    assert Corpus.from_folder(tmp_path).slots == {"label": ("bus", "test", "train")}


def test_another_field_of_splits_is_in_the_rule(tmp_path: Path) -> None:
    splits = ("train", "valid", "test") * 4
    rows = [f"{i}.wav,{'ab'[i % 2]},{split},{split}" for i, split in enumerate(splits)]
    source = table(tmp_path, "\n".join(["path,label,split,subset", *rows]) + "\n")
    assert Corpus.read(source).split_rule is None
    assert Corpus.read(source, split_field="subset").split_rule == "field subset"


def test_a_field_of_splits_that_is_not_there_is_refused(tmp_path: Path) -> None:
    rows = [f"{i}.wav,{'ab'[i % 2]},{split}" for i, split in enumerate(("train", "valid", "test") * 4)]
    source = table(tmp_path, "\n".join(["path,label,part", *rows]) + "\n")
    with pytest.raises(UnknownName, match=r"or part\?"):
        Corpus.read(source, split_field="prat")
    lines = [{"audio_filepath": f"{i}.wav", "label": "ab"[i % 2], "part": "train"} for i in range(4)]
    nemo = table(tmp_path, "\n".join(map(json.dumps, lines)), "nemo.jsonl")
    assert Corpus.read(nemo, split_field="part").splits()["train"] > 0
    with pytest.raises(UnknownName, match="split field 'prat'"):
        Corpus.read(nemo, split_field="prat")
    folders = tmp_path / "folders"
    clips(folders, *(f"{word}/{i}.wav" for word in "ab" for i in "1234"))
    with pytest.raises(UsageError, match="split field 'part', for this source has no fields"):
        Corpus.read(folders, split_field="part")


def test_an_empty_speaker_is_none(tmp_path: Path) -> None:
    lines = [
        {"audio_filepath": f"{i}.wav", "label": "ab"[i % 2], "speaker": ("", " ", "s")[i % 3]}
        for i in range(6)
    ]
    nemo = table(tmp_path, "\n".join(map(json.dumps, lines)), "nemo.jsonl")
    assert {u.speaker for u in Corpus.read(nemo).utterances} == {None, "s"}


def test_links_back_up_are_not_walked_in_circles(tmp_path: Path) -> None:
    clips(tmp_path / "data", *(f"{word}/{i}.wav" for word in ("yes", "no") for i in "1234"))
    (tmp_path / "data" / "latest").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "yes" / "up").symlink_to("..", target_is_directory=True)
    (tmp_path / "data" / "loop").symlink_to("loop")
    found = Corpus.from_folder(tmp_path / "data")
    assert (len(found.utterances), found.slots) == (8, {"label": ("no", "yes")})
    clips(tmp_path / "pool", *(f"{i}.wav" for i in "1234"))
    (tmp_path / "data" / "maybe").symlink_to(tmp_path / "pool", target_is_directory=True)
    assert len(Corpus.from_folder(tmp_path / "data").utterances) == 12
    assert len(list(CorpusFolder(Any, tmp_path, tmp_path / "data", "").files())) == 12


def test_the_metadata_lines_of_an_audio_folder(tmp_path: Path) -> None:
    clips(tmp_path, *(f"spk{i % 2}/{i}.wav" for i in range(8)))
    lines = [{"file_name": f"spk{i % 2}/{i}.wav", "label": ("happy", "sad")[i // 4]} for i in range(8)]
    table(tmp_path, "\n".join(map(json.dumps, lines)), "metadata.jsonl")
    found = Corpus.read(tmp_path)
    assert (found.name, found.slots) == (tmp_path.name, {"label": ("happy", "sad")})
    assert found.utterances[0].audio == tmp_path / "spk0" / "0.wav"
