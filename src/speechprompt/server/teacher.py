"""The process that teaches one task: clips in a folder to an artifact beside them, progress as JSON lines.

`python -m speechprompt.server.teacher FOLDER`; FOLDER holds plan.json as `lessons` writes it. It yields the
processor to the server that started it, and ends when that server does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechprompt.errors import SpeechPromptError
from speechprompt.server.lessons import ARTIFACT, PLAN

if TYPE_CHECKING:
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import SpokenLM

SLOT = "label"
NICENESS = 5
"""Beside a server that is busy, a teacher gets a quarter of a core; more niceness would starve it."""


def main(folder: Path) -> int:
    """Teach what the plan says: 0, or 1 after a line that says why not."""
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    try:
        _teach(plan, folder / ARTIFACT)
    except SpeechPromptError as error:
        _say(problem=_named(str(error), plan["clips"]))
        return 1
    return 0


def _teach(plan: Mapping[str, Any], out: Path) -> None:
    import torch

    from speechprompt.prompting.teach import steps_for, teach
    from speechprompt.spoken_lm import SpokenLM

    torch.set_num_threads(plan["threads"])
    _say(stage="loading")
    spoken_lm = SpokenLM.load(plan["spoken_lm"], plan["device"])
    _say(stage="encoding")
    corpus = _encoded(plan, spoken_lm)
    steps = plan.get("steps") or steps_for(len(corpus.utterances))
    _say(stage="training", step=0, steps=steps)

    def listen(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["run"] == plan["name"]:
            _say(step=event["step"], loss=round(event["loss"], 4))

    artifact = teach(corpus, spoken_lm, plan["name"], steps, listener=listen)
    artifact.save(out)


def _encoded(plan: Mapping[str, Any], spoken_lm: SpokenLM) -> Corpus:
    """The clips as units; the limit on seconds holds while they are decoded, and nothing is put on disk."""
    from speechprompt.errors import AudioError
    from speechprompt.speech.audio import AudioLimits, read_waveform
    from speechprompt.speech.manifest import Corpus, Utterance

    limits = AudioLimits(hours=plan["seconds"] / 3600)
    utterances = []
    for i, clip in enumerate(plan["clips"]):
        path, rate = Path(clip["path"]), spoken_lm.tokenizer.sample_rate
        waveform, _ = read_waveform(path, rate, limits=limits)
        try:
            units = spoken_lm.tokenizer.encode(waveform)
        except AudioError as error:
            raise AudioError(f"{path}: {error}") from None
        utterances.append(Utterance(str(i), "train", {SLOT: clip["label"]}, audio=path, units=units))
    labels = tuple(dict.fromkeys(clip["label"] for clip in plan["clips"]))
    return Corpus(f"{len(utterances)} clips taught in the browser", tuple(utterances), {SLOT: labels})


def _named(message: str, clips: Sequence[Mapping[str, str]]) -> str:
    """A message in which clips have the names that the person knows, not the server's paths."""
    for clip in clips:
        message = message.replace(clip["path"], f"'{clip['name']}' of {clip['label']}")
    return message


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _end_with_the_server() -> None:
    """The server holds our standard input open for as long as it lives."""
    os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter ends
    os._exit(3)


if __name__ == "__main__":
    os.nice(NICENESS)
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    sys.exit(main(Path(sys.argv[1])))
