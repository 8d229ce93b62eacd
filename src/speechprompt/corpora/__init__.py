"""Corpora by name, from the folders that their authors publish to manifests. Knows no torch and no model.

prepare("fsdd", "free-spoken-digit-dataset", "fsdd.jsonl")
prepare("voxceleb1:gender", "VoxCeleb1", "gender.jsonl.gz", split_rule="speaker-disjoint")
check("esc-50", "ESC-50-master").differences
"""

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.registry import (
    check,
    corpus_names,
    describe,
    list_corpora,
    prepare,
)
from speechprompt.corpora.results import CheckReport, PreparedCorpus

__all__ = [
    "CheckReport",
    "CorpusDescription",
    "PreparedCorpus",
    "Row",
    "check",
    "corpus_names",
    "describe",
    "list_corpora",
    "prepare",
]
