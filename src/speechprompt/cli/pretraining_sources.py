"""What a pretraining starts from: audio of training rows, units of every kind of source, a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechprompt.cli.materials import encoded, read_source
from speechprompt.cli.terminal import Terminal
from speechprompt.cli.tokenizer_part import TokenizerPart, tokenizer_name
from speechprompt.errors import CorpusError, UnknownName

if TYPE_CHECKING:
    from speechprompt.speech.manifest import Corpus, Utterance
    from speechprompt.tokenizers.protocol import UnitTokenizer


def open_tokenizer(name: str, device: str) -> UnitTokenizer:
    """The tokenizer of a published name or a folder, loaded."""
    return tokenizer_name(name, device).load()


def learnable_audio(
    terminal: Terminal, sources: Sequence[str], split_fields: Sequence[str], untested: Sequence[str] = ()
) -> list[Utterance]:
    """Training rows that have audio, of all sources; ids are made unique. CorpusError when there are none."""
    found = []
    for corpus in _all_training(
        [read_source(source, terminal) for source in sources], untested, split_fields
    ):
        found += [replace(u, id=f"{corpus.name}/{u.id}") for u in _training(corpus, split_fields) if u.audio]
    if not found:
        raise CorpusError(f"no training row of {', '.join(sources)} has audio, so there is nothing to hear")
    return found


def read_units(
    terminal: Terminal,
    sources: Sequence[str],
    tokenizer: TokenizerPart,
    split_fields: Sequence[str] = (),
    without: Sequence[str] = (),
    untested: Sequence[str] = (),
) -> list[Corpus]:
    """Every source as a corpus whose rows carry units, those named in `without` left out.

    Rows that bring audio are encoded, those of other splits too: what they say must not train. In an `untested`
    corpus every row trains, whatever `split_fields` say. CorpusError for units of another tokenizer; UnknownName for
    a corpus in `without` or `untested` that is none of the sources.
    """
    from speechprompt.speech.stored_corpus import is_store

    corpora = []
    for source in sources:
        stored = is_store(Path(source))
        corpora.append(
            _stored(source, tokenizer) if stored else read_source(source, terminal, skip_unreadable=True)
        )
        if stored:
            terminal.notice(f"{source} is a unit store, which knows no splits: all that it holds is read")
    _known(corpora, without)
    corpora = _all_training(corpora, untested, split_fields)
    kept = [corpus for corpus in corpora if corpus.name not in without]
    return [_with_units(terminal, corpus, tokenizer) for corpus in kept]


def _known(corpora: Sequence[Corpus], names: Sequence[str]) -> None:
    for name in names:
        if name not in (known := [corpus.name for corpus in corpora]):
            raise UnknownName("corpus", name, known)


def _all_training(
    corpora: Sequence[Corpus], untested: Sequence[str], split_fields: Sequence[str]
) -> list[Corpus]:
    """The corpora, those that no test scores with every row in train. UnknownName: no such corpus or field."""
    from speechprompt.pretraining.material import check_split_fields

    _known(corpora, untested)
    check_split_fields(corpora, split_fields)
    return [
        replace(
            corpus,
            utterances=tuple(
                replace(u, split="train", extra={k: v for k, v in u.extra.items() if k not in split_fields})
                for u in corpus.utterances
            ),
        )
        if corpus.name in untested
        else corpus
        for corpus in corpora
    ]


def _stored(source: str, tokenizer: TokenizerPart) -> Corpus:
    from speechprompt.speech.stored_corpus import read_store

    corpus, fingerprint = read_store(Path(source))
    if (ours := tokenizer.load().fingerprint) != fingerprint:
        raise CorpusError(
            f"{source} holds units of a tokenizer with fingerprint {fingerprint}, but {tokenizer.name} has {ours}"
        )
    return corpus


def _with_units(terminal: Terminal, corpus: Corpus, tokenizer: TokenizerPart) -> Corpus:
    if any(u.units is not None for u in corpus.utterances) and corpus.tokenizer not in (None, tokenizer.name):
        raise CorpusError(
            f"{corpus.name} holds units of {corpus.tokenizer}, not of {tokenizer.name}; name that with --tokenizer"
        )
    bare = tuple(u for u in corpus.utterances if u.units is None)
    if not bare:
        return corpus
    units = tuple(u for u in corpus.utterances if u.units is not None)
    whole = replace(corpus, utterances=(*units, *bare), tokenizer=None)
    heard = encoded(whole, _only_tokenizer(tokenizer), terminal, skip_unreadable=True, any_length=True)
    return replace(heard, tokenizer=tokenizer.name)


def _only_tokenizer(part: TokenizerPart) -> Any:
    """A spoken LM without an LM, which is all that encoding needs."""
    from speechprompt.spoken_lm import SpokenLM

    def no_lm() -> Any:
        raise AssertionError("encoding never asks for the LM")

    return SpokenLM(part.name, part.load, no_lm, part.name)


def _training(corpus: Corpus, split_fields: Sequence[str]) -> list[Utterance]:
    from speechprompt.pretraining.material import trains

    return [u for u in corpus.utterances if trains(u, split_fields)]
