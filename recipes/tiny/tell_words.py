"""Tell the phonemes of recordings of single words, in their order, so that `pretrain tokenizer` can place them.

    python recipes/tiny/tell_words.py FOLDER/arabic_ghandoura --language ar

Reads FOLDER/manifest.jsonl, whose rows name their `word`, and writes FOLDER/told.jsonl, the same rows with `phonemes`
where `spoken_words.json` knows the word. Its phonemes are espeak-ng's; of several ways to say a word, or several words
that an English label may stand for, it holds the one that an encoder's alignment fitted best.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

WORDS = json.loads(Path(__file__).with_name("spoken_words.json").read_text(encoding="utf-8"))


def told(line: str, words: dict[str, str]) -> str:
    """A manifest's line, with `phonemes` if its word is known."""
    row = json.loads(line)
    spoken = words.get(str(row.get("word", "")).replace(" ", "_"))
    if spoken is None:
        return line
    return json.dumps({**row, "phonemes": spoken.split()}, ensure_ascii=False)


def main() -> None:
    """Write told.jsonl beside the manifest and say how many rows tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--language", choices=sorted(WORDS), required=True)
    arguments = parser.parse_args()
    lines = (arguments.folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [told(line, WORDS[arguments.language]) for line in lines]
    (arguments.folder / "told.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{sum('phonemes' in row for row in rows)} of {len(rows) - 1} rows tell their phonemes")


if __name__ == "__main__":
    main()
