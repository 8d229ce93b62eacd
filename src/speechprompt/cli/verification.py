"""What `lms verify` measures: hashes of fetched files, and how well an LM predicts units of bundled speech."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from speechprompt.cli.terminal import Terminal

if TYPE_CHECKING:
    from speechprompt.downloads import PublishedFile
    from speechprompt.spoken_lm import SpokenLM

CLIPS = 24


def hashes(terminal: Terminal, files: Sequence[PublishedFile]) -> list[dict[str, str]]:
    """Fetch files and hash them; the verdict says whether a published hash was there to compare with.

    DownloadError when one differs.
    """
    from speechprompt.downloads import fetch_published

    found = []
    for file in files:
        terminal.say(f"checking {file.name}")
        with fetch_published(file.name).open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        verdict = "as published" if file.sha256 else "no published hash to compare with"
        found.append({"name": file.name, "sha256": digest, "verdict": verdict})
    return found


def bits_per_unit(spoken_lm: SpokenLM) -> dict[str, Any]:
    """Bits that the bare LM needs for each unit of bundled clips but the first, beside those of a uniform guess."""
    import torch

    from speechprompt.encoding import encode_corpus
    from speechprompt.experiments.demo import demo_corpus
    from speechprompt.lms.batch import collate
    from speechprompt.speech.manifest import Corpus

    demo = demo_corpus()
    spread = demo.utterances[:: max(1, len(demo.utterances) // CLIPS)][:CLIPS]
    corpus = encode_corpus(Corpus(demo.name, spread, demo.slots), spoken_lm).corpus
    bits, count, lm = 0.0, 0, spoken_lm.lm
    for utterance in corpus.utterances:
        assert utterance.units is not None
        batch = collate([utterance.units]).to(lm.device)
        with torch.inference_mode():
            logits = lm.heads_of(lm.unit_states(batch))["units"][0, :-1]
            wanted = lm.lm_ids(batch.unit_ids[0, 1:])
            bits += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")) / math.log(2)
        count += len(wanted)
    return {
        "clips": len(corpus.utterances),
        "units": count,
        "bits_per_unit": round(bits / max(1, count), 3),
        "uniform_bits": round(math.log2(spoken_lm.tokenizer.unit_count), 3),
    }
