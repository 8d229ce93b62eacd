"""The tokenizer of a pretraining, by name or in a folder, and what is made of it where prosody is wanted."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechprompt.errors import UnknownName

if TYPE_CHECKING:
    from speechprompt.tokenizers.prosody import F0Mean
    from speechprompt.tokenizers.protocol import UnitTokenizer


@dataclass(frozen=True)
class TokenizerPart:
    """A tokenizer that may not be loaded yet: a published one is only needed where audio is encoded.

    `folder` None: `name` is one that `load_tokenizer` knows. Of a folder's tokenizer, `content_only` leaves out codes
    of timbre and prosody, and `mean` adds F0 measured from it.
    """

    name: str
    unit_count: int
    folder: Path | None
    device: str
    content_only: bool = False
    mean: F0Mean | None = None

    def load(self) -> UnitTokenizer:
        """The tokenizer itself; a published one is downloaded at first use."""
        from speechprompt.spoken_lm import content_of, load_tokenizer, with_f0

        loaded = load_tokenizer(self.folder or self.name, self.device)
        loaded = content_of(loaded) if self.content_only else loaded
        return loaded if self.mean is None else with_f0(loaded, "f0", self.device, self.mean)

    @property
    def published(self) -> bool:
        """Whether it is published, so that loading it may download."""
        from speechprompt.spoken_lm import HUBERT_UNITS

        return self.folder is None and self.name.partition("+")[0] in HUBERT_UNITS

    @property
    def fingerprint(self) -> str | None:
        """Its fingerprint, None where a download would be needed to know it."""
        return None if self.published else self.load().fingerprint

    @property
    def f0_from(self) -> str | None:
        """Who follows the pitch of its units and what log-F0 is measured from; None without F0."""
        from speechprompt.spoken_lm import TRACKERS
        from speechprompt.tokenizers.prosody import ABSOLUTE

        tracker = self.name.rpartition("+")[2]
        if "+" not in self.name or tracker not in TRACKERS:
            return None
        measured = (
            "nothing (absolute)" if tracker.endswith(ABSOLUTE) else "a mean, the utterance's or the speaker's"
        )
        return f"tracker {tracker.removesuffix(ABSOLUTE)}; log-Hz measured from {measured}"

    def content(self) -> TokenizerPart:
        """The part without codes of timbre and prosody; itself where it has none."""
        from speechprompt.spoken_lm import content_of

        if self.published:
            return self
        loaded = self.load()
        bare = content_of(loaded)
        if bare is loaded:
            return self
        return replace(self, name=bare.name, unit_count=bare.unit_count, content_only=self.folder is not None)

    def with_f0(self, mean: F0Mean) -> TokenizerPart:
        """The part with F0 of our own tracker, measured from `mean`."""
        from speechprompt.tokenizers.prosody import ABSOLUTE

        name = f"{self.name}+f0{ABSOLUTE if mean == 'absolute' else ''}"
        return replace(self, name=name, mean=None if self.folder is None else mean)

    def written(self, scratch: Path) -> Path | None:
        """A folder to copy into a spoken LM: its own, or one that is written to `scratch`; None for a name."""
        from speechprompt.spoken_lm import content_of, load_tokenizer
        from speechprompt.spoken_lm_folder import write_prosody_tokenizer
        from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer

        if self.folder is None or (self.mean is None and not self.content_only):
            return self.folder
        shutil.rmtree(scratch, ignore_errors=True)
        units, loaded = self.folder, content_of(load_tokenizer(self.folder, self.device))
        if self.content_only and isinstance(loaded, MelHubertTokenizer):
            units = scratch / "content"
            loaded.save(units)
        return (
            units if self.mean is None else write_prosody_tokenizer(scratch / "whole", units, "f0", self.mean)
        )


def tokenizer_name(name: str, device: str) -> TokenizerPart:
    """A tokenizer by name or folder; a spoken LM's folder lends its own. UnknownName for any other."""
    from speechprompt.spoken_lm import (
        DESCRIPTION,
        HUBERT_UNITS,
        TRACKERS,
        describe,
        load_tokenizer,
        tokenizer_names,
    )

    bare, plus, tracker = name.rpartition("+")
    if (bare if plus and tracker in TRACKERS else name) in tokenizer_names():
        published = HUBERT_UNITS.get(name.partition("+")[0])
        return TokenizerPart(name, published or load_tokenizer(name, device).unit_count, None, device)
    folder = Path(name)
    if (folder / DESCRIPTION).is_file():
        if not (folder / "tokenizer").is_dir():
            return tokenizer_name(str(describe(folder)["tokenizer"]), device)
        folder = folder / "tokenizer"
    if not folder.is_dir():
        raise UnknownName("tokenizer", name, tokenizer_names())
    loaded = load_tokenizer(folder, device)
    return TokenizerPart(loaded.name, loaded.unit_count, folder, device)
