"""How well units tell labels apart: TF-IDF of 1- to 3-grams and a linear SVM, train to test.

python recipes/tiny/measure.py TOKENIZER_FOLDER SOURCE... [--split test]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from speechprompt.speech.audio import read_waveform
from speechprompt.speech.readers import read_corpus
from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer


def main() -> None:
    """Print a line for each source and slot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    tokenizer = MelHubertTokenizer.load(arguments.tokenizer)
    for source in arguments.sources:
        corpus = read_corpus(source)
        rows = [u for u in corpus.utterances if u.audio is not None and u.split in ("train", arguments.split)]
        waveforms = [read_waveform(u.audio, tokenizer.sample_rate)[0] for u in rows if u.audio is not None]
        started = time.monotonic()
        texts = [" ".join(map(str, units.ids)) for units in tokenizer.encode_batch(waveforms)]
        speed = sum(map(len, waveforms)) / tokenizer.sample_rate / (time.monotonic() - started)
        train = [i for i, u in enumerate(rows) if u.split == "train"]
        scored = [i for i, u in enumerate(rows) if u.split == arguments.split]
        vectorizer = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 3), sublinear_tf=True)
        vectors = vectorizer.fit_transform([texts[i] for i in train])
        for slot in corpus.slots:
            labels = np.array([u.labels[slot] for u in rows])
            svm = LinearSVC(C=0.5, class_weight="balanced").fit(vectors, labels[train])
            right = svm.predict(vectorizer.transform([texts[i] for i in scored])) == labels[scored]
            largest = np.unique(labels[scored], return_counts=True)[1].max() / len(scored)
            print(
                f"{corpus.name} {slot}: {right.mean():.3f} of {len(scored)} {arguments.split} rows, largest label "
                f"{largest:.3f}, {len(train)} train rows, encoded at {speed:.0f} x real time",
                flush=True,
            )


if __name__ == "__main__":
    main()
