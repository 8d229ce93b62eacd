"""Miniatures of the official folder layouts, with the awkward things that downloads hold."""

from __future__ import annotations

import json
import pickle
import wave
from pathlib import Path

import numpy as np


def wav(path: Path, seconds: float = 0.01, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\0\0" * round(seconds * rate))


def text(path: Path, content: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))


def litter(root: Path) -> None:
    """What macOS leaves in every folder."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (folder / "._clip.wav").write_bytes(b"\0\5\26\7")


def retyped(root: Path) -> None:
    """Every metadata file as some editors save it: byte order mark, CRLF, no end to the last line."""
    for path in root.rglob("*"):
        if path.suffix in (".csv", ".tsv", ".txt", ".json") and path.is_file():
            content = path.read_bytes().decode("utf-8-sig")
            lines = content.replace("\r\n", "\n").rstrip("\n").replace("\n", "\r\n")
            path.write_bytes(lines.encode("utf-8-sig"))


def google_speech_commands(root: Path, version: str = "v0.01") -> None:
    main, test = root / f"speech_commands_{version}", root / f"speech_commands_test_set_{version}"
    for word in ("yes", "no", "bed"):
        for speaker in range(40):
            wav(main / word / f"{speaker:08x}_nohash_0.wav")
    for noise, seconds in (("white_noise.wav", 3.0), ("running_tap.WAV", 2.0), ("short.wav", 0.5)):
        wav(main / "_background_noise_" / noise, seconds)
    text(main / "_background_noise_" / "README.md", "noise")
    labels = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_"]
    for label in labels:
        wav(test / label / ("0.wav" if label == "_silence_" else "000000ff_nohash_0.wav"))


def google_speech_commands_v2(root: Path) -> None:
    google_speech_commands(root, "v0.02")


def grabo(root: Path) -> None:
    for speaker in ("pp2", "pp10"):
        base = root / "grabo/speakers" / speaker
        for command in range(1, 4):
            for take in range(1, 11):
                wav(base / f"spchdatadir/recording{command}/Voice_{take}.wav")
                text(base / f"framedir/recording{command}/Voice_{take}.xml", "<frame/>")
                text(base / f"transcriptions/recording{command}/Voice_{take}.txt", "rijd\n")


def lithuanian(root: Path) -> None:
    names = [
        f"dataset/{word}/{speaker:02d}_nohash_0.wav" for word in ("ačiū", "du") for speaker in range(1, 7)
    ]
    noise = [f"dataset/_background_noise_/{number}.wav" for number in range(25)]
    for name in names + noise:
        # macOS archives spell accents as two code points.
        wav(root / name.replace("č", "c\u030c").replace("ū", "u\u0304"))
    head, base = "filename\tlabel", "/home/somebody/lt_speech_commands/"
    words = [f"{base}{name}\t{'unknown' if '/du/' in name else 'ačiū'}" for name in names]
    lists = {"train_limit20": words[:8], "dev_full": words[8:10], "test_full": words[10:]}
    lists["noise_full"] = [f"{base}{name}\tsilence" for name in noise]
    for name, lines in lists.items():
        text(root / f"{name}.csv", "\r\n".join([head, *lines]), "utf-8-sig")


def arabic(root: Path) -> None:
    base = root / "AR_ SpeechCommands_Database"
    names = [f"Words/{letter}_Word{take}.wav" for letter in "AB" for take in range(1, 6)]
    names += [f"Numbers/{digit}_{take}.WAV" for digit in "07" for take in range(1, 6)]
    for name in names:
        wav(base / name)
    old = [name.replace("Words", "commands").replace("Numbers", "numbers") for name in names]
    lines = [f"/x/AR_SpeechCommands/{name}\t{name.split('/')[1][0]}" for name in old]
    for name, part in (("train_full", lines[:14]), ("dev_full", lines[14:16]), ("test_full", lines[16:])):
        text(base / f"{name}.csv", "filename\tlabel\n" + "\n".join(part))


def dysarthric_mandarin(root: Path) -> None:
    lines = {"train_full": ["filename\tlabel"], "test_full": ["filename\tlabel"]}
    for speaker in (1, 2, 3):
        for label in (1, 2, 10, 12):
            for take in range(1, 11):
                number = "" if label == 1 else label  # as published
                name = f"D_SPK{speaker}/{label:02d}/D_SPK{speaker}_c{number} ({take}).wav"
                wav(root / "dysarthria_zh_command" / name)
                part = "test_full" if take > 7 else "train_full"
                lines[part].append(f"/work/x/dysarthria_zh_command/{name}\t{label:02d}")
    for part, content in lines.items():
        text(root / "DM-SCR" / f"{part}.csv", "\n".join(content))


def fluent(root: Path) -> None:
    base = root / "fluent_speech_commands_dataset"
    head = ",path,speakerId,transcription,action,object,location"
    rows = [
        ("change language", "none", "none"),
        ("activate", "lights", "kitchen"),
        ("bring", "shoes", "none"),
    ]
    for split, speaker in (
        ("train", "2BqVo8kVB2Skwgyb"),
        ("valid", "5o9BvRGEGvhaeBwA"),
        ("test", "4BrX8aDqK2cLZRYl"),
    ):
        lines = []
        for number, (action, thing, place) in enumerate(rows):
            path = f"wavs/speakers/{speaker}/{number}-a.wav"
            wav(base / path)
            lines.append(f'{number},{path},{speaker},"Change language, please",{action},{thing},{place}')
        lines.append(lines[-1])  # a row that stands twice
        text(base / "data" / f"{split}_data.csv", "\r\n".join([head, *lines]) + "\r\n", "utf-8-sig")


def voxforge(root: Path) -> None:
    base = root / "www.repository.voxforge1.org/downloads"
    for language in ("de", "SpeechCorpus", "es", "fr", "it", "Russian", "pt"):
        trunk = base / language / "Trunk/Audio/Main/16kHz_16bit"
        for user in (
            "Aaron-20080318-kdl",
            "Aaron-20080319-abc",
            "anonymous-20080401-aaa",
            "ralf-b-20090101-zz",
        ):
            for number in range(6):
                wav(trunk / user / ("flac" if user[0] == "r" else "wav") / f"a{number:04d}.wav")
            text(trunk / user / "etc/PROMPTS", "x")


def asvspoof(root: Path) -> None:
    base = root / "LA"
    for part, name, speaker in (
        ("train", "train.trn", "LA_0079"),
        ("dev", "dev.trl", "LA_0069"),
        ("eval", "eval.trl", "LA_0039"),
    ):
        lines = []
        for number, (attack, key) in enumerate((("-", "bonafide"), ("A01", "spoof"), ("A06", "spoof"))):
            file = f"LA_{part[0].upper()}_{number}"
            wav(base / f"ASVspoof2019_LA_{part}/flac/{file}.flac")
            lines.append(f"{speaker} {file} - {attack} {key}")
        text(base / f"ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{name}.txt", "\n".join(lines))


def iemocap(root: Path) -> None:
    for session in range(1, 6):
        base, dialog = root / f"IEMOCAP_full_release/Session{session}", f"Ses0{session}F_impro01"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for number, emotion in enumerate(("neu", "exc", "hap", "ang", "sad", "xxx", "fru")):
            turn = f"{dialog}_{'FM'[number % 2]}{number:03d}"
            lines.append(f"[{number}.0000 - {number}.9000]\t{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]")
            lines.append("C-E2:\tNeutral;\t()")
            wav(base / f"sentences/wav/{dialog}/{turn}.wav")
        text(base / f"dialog/EmoEvaluation/{dialog}.txt", "\r\n".join(lines), "latin-1")


def easycall(root: Path) -> None:
    for speaker in ("f01", "f02", "m02", "M04", "fc01", "mc01", "mc02", "f04"):
        for word in ("Abilita", "Chiama Nome", "Città"):
            for session in (1, 2):
                name = f"{speaker}_{session:02d}_{word}.{'WAV' if session == 2 else 'wav'}"
                # Some sessions lie in a folder of their own.
                wav(root / "EasyCall" / speaker / ("Sessione 01" if session == 1 else "") / name)
    text(root / "EasyCall/README.txt", "x")
    wav(root / "EasyCall/prova.wav")  # of nobody


def accentdb(root: Path) -> None:
    for accent, speakers in (("american", 3), ("bangla", 2), ("welsh", 1)):
        for speaker in range(1, speakers + 1):
            for number in range(5):
                wav(
                    root
                    / f"accentdb_extended/data/{accent}/speaker_{speaker:02d}/{accent}_s{speaker:02d}_{number:03d}.wav"
                )


def mustard(root: Path) -> None:
    people = (
        ("BBT", "SHELDON"),
        ("BBT", "PENNY"),
        ("FRIENDS", "ROSS"),
        ("FRIENDS", "JOEY"),
        ("FRIENDS", "PERSON"),
    )
    clips = {
        f"{number // 5 + 1}_{number}": {
            "utterance": "Oh, great.",
            "speaker": people[number % 5][1],
            "context": [],
            "show": people[number % 5][0],
            "sarcasm": number % 2 == 0,
        }
        for number in range(20)
    }
    text(root / "sarcasm_data.json", json.dumps(clips))
    for number, name in enumerate(clips):
        wav(root / "mmsd_raw_data/utterances_final" / f"{name}.{'mp4' if number == 3 else 'wav'}")
    folds = [(np.arange(4, 20), np.arange(4)), (np.arange(16), np.arange(16, 20))]
    (root / "split_indices.p").write_bytes(pickle.dumps(folds, protocol=2))


def mustard_plus_plus(root: Path) -> None:
    head = "SCENE,KEY,SENTENCE,END_TIME,SPEAKER,SHOW,Sarcasm,Sarcasm_Type,Implicit_Emotion,Explicit_Emotion"
    lines = [f"{head},Valence,Arousal"]
    for number in range(20):
        scene = f"1_{number}"
        # In one published row an emotion stands where the clip's name should.
        key = "Disgust" if number == 7 else f"{scene}_u"
        lines.append(f'{scene},{scene}_c_00,"Well, I\nhave questions.",0:06,PERSON,BBT,,,,,,')
        speaker = ("SHELDON", "PENNY", "HOWARD")[number % 3]
        said = f'"Great, a ""day"".",0:1.459000,{speaker},BBT,{number % 2},NONE,Anger,Neutral,4,6'
        lines.append(f"{scene},{key},{said}")
        wav(root / f"final_utterance_videos/{scene}_u.wav")
        wav(root / f"final_context_videos/{scene}_c.mp4")
    lines.append(lines[-1])
    text(root / "mustard++_text.csv", "\r\n".join(lines))


def voxceleb1(root: Path) -> None:
    lines, meta = [], ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    for part, speakers in (("dev", (10001, 10002, 10003)), ("test", (10270, 10271))):
        for speaker in speakers:
            meta.append(f"id{speaker}\tSome_Name\t{'mf'[speaker % 2]}\tIreland\t{part}")
            for video, split in (("1zcIwhmdeo4", 1), ("7gWzIy6yIIk", 2), ("-x_y", 3)):
                wav(root / part / f"wav/id{speaker}/{video}/00001.wav")
                lines.append(f"{split} id{speaker}/{video}/00001.wav")
    text(root / "iden_split.txt", "\n".join(lines))
    text(root / "vox1_meta.csv", "\r\n".join(meta))


def vad(root: Path) -> None:
    for number in range(12):
        wav(root / f"speech_commands_v0.02/bed/{number:08x}_nohash_0.wav", 1.0)
        wav(root / f"freesound_resampled_background/Rain (heavy)/{number} rain.wav", 2.0)
    wav(root / "speech_commands_v0.02/_background_noise_/white_noise.wav", 2.0)
    for kind, path in (
        ("speech", "speech_commands_v0.02/bed/00000000_nohash_0.wav"),
        ("background", "freesound_resampled_background/Rain (heavy)/0 rain.wav"),
    ):
        for split in ("training", "validation", "testing"):
            entry = {"audio_filepath": f"/data/{path}", "duration": 0.63, "label": kind, "text": "_"}
            lines = "\n".join(json.dumps(entry | {"offset": offset}) for offset in (0.2, 0.21, 0.2))
            text(root / f"manifest/balanced_{kind}_{split}_manifest.json", lines)


def esc_50(root: Path) -> None:
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target, sound, ten in ((0, "dog", True), (3, "cow", False), (41, "chainsaw", True)):
            name = f"{fold}-{1000 + target}-A-{target}.wav"
            wav(root / "ESC-50-master/audio" / name)
            lines.append(f"{name},{fold},{target},{sound},{ten},{1000 + target},A")
    lines.append(lines[1])
    text(root / "ESC-50-master/meta/esc50.csv", "\n".join(lines))


def fsdd(root: Path) -> None:
    for speaker in ("george", "jackson", "theo"):
        for digit in range(10):
            for take in (0, 4, 5, 49):
                wav(root / f"free-spoken-digit-dataset-master/recordings/{digit}_{speaker}_{take}.wav")


def audiomnist(root: Path) -> None:
    meta = {}
    for speaker in range(1, 11):
        meta[f"{speaker:02d}"] = {
            "accent": "German",
            "age": "30",
            "gender": "female" if speaker > 6 else "male",
        }
        for digit in range(10):
            wav(root / f"data/{speaker:02d}/{digit}_{speaker:02d}_0.wav")
    text(root / "data/audioMNIST_meta.txt", json.dumps(meta, indent=1))


def ravdess(root: Path) -> None:
    for actor in range(1, 25):
        for emotion in range(1, 9):
            wav(
                root
                / f"Audio_Speech_Actors_01-24/Actor_{actor:02d}/03-01-{emotion:02d}-01-01-01-{actor:02d}.wav"
            )
        wav(root / f"Audio_Speech_Actors_01-24/Actor_{actor:02d}/03-02-03-01-01-01-{actor:02d}.wav")


def emodb(root: Path) -> None:
    for speaker in ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16"):
        for letter in "WLEAFTN":
            wav(root / f"wav/{speaker}a01{letter}a.wav")
    text(root / "erkennung.txt", "x")


def crema_d(root: Path) -> None:
    lines = ['"ActorID","Age","Sex","Race","Ethnicity"']
    for actor in range(1001, 1013):
        lines.append(f'{actor},51,"{"Male" if actor % 2 else "Female"}","Caucasian","Not Hispanic"')
        for emotion in ("NEU", "HAP", "SAD", "ANG", "FEA", "DIS"):
            wav(root / f"AudioWAV/{actor}_IEO_{emotion}_XX.wav")
    text(root / "VideoDemographics.csv", "\n".join(lines))


def common_voice(root: Path) -> None:
    head = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale"
    head = head.replace(" ", "\t")
    for language in ("en", "ga-IE"):
        base, validated = root / f"cv-corpus-17.0-2024-03-15/{language}", [head]
        for part in ("train", "dev", "test"):
            lines = [head]
            for number in range(3):
                clip = f"common_voice_{language}_{part}{number}.mp3"
                wav(base / "clips" / clip)
                gender = ("male_masculine", "female", "")[number]
                quote = 'He said "no.'
                accent = "England English" if number else ""
                cells = [
                    f"{part}{number}",
                    clip,
                    "1",
                    quote,
                    "",
                    "2",
                    "0",
                    "twenties",
                    gender,
                    accent,
                    "",
                    language,
                ]
                lines.append("\t".join(cells))
            validated += lines[1:]
            text(base / f"{part}.tsv", "\n".join(lines) + "\n")
        text(base / "validated.tsv", "\n".join(validated))


def vctk(root: Path) -> None:
    base, lines = root / "VCTK-Corpus-0.92", ["ID  AGE  GENDER  ACCENTS  REGION COMMENTS "]
    for number, accent in enumerate(["English"] * 6 + ["Scottish"] * 3 + ["Welsh"]):
        speaker = f"p{225 + number}"
        lines.append(f"{speaker}  23  {'FM'[number % 2]}    {accent}    Southern  England")
        for sentence in range(1, 6):
            for microphone in (1, 2):
                wav(base / f"wav48_silence_trimmed/{speaker}/{speaker}_{sentence:03d}_mic{microphone}.flac")
    wav(base / "wav48_silence_trimmed/s5/s5_001_mic2.flac")
    text(base / "speaker-info.txt", "\r\n".join(lines))
