"""What balancing labels costs or gains the n-gram baseline on rows of the table of results, on the same rounds.

    python benchmarks/ngram_balance.py recipes/table.toml --material DATA --rows vctk-accent,vctk-gender

The baseline balances labels; `--ngrams` does not unless the option `balanced` says so. Prints accuracy in percent of
the baseline's own SVM both ways, all rounds joined.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from speechprompt.evaluation.baselines import NGRAM_STRENGTH
from speechprompt.experiments.table_rounds import find_source, read_row, rounds_of
from speechprompt.experiments.table_rows import read_declaration


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("declaration", type=Path)
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--rows", required=True, help="rows of units, after commas")
    given = parser.parse_args()
    declaration = read_declaration(given.declaration)
    for row in declaration.chosen(given.rows.split(",")):
        corpus = read_row(row, find_source(row, given.material, given.material))
        right: dict[str, list[np.ndarray]] = {"balanced": [], "as they are": []}
        for one in rounds_of(row, corpus, 1, None):
            terms = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 3), sublinear_tf=True, min_df=2)
            train, test = (
                [" ".join(map(str, u.units.ids.tolist())) for u in one.rows(split) if u.units is not None]
                for split in ("train", "test")
            )
            heard, asked = terms.fit_transform(train), terms.transform(test)
            for name, found in right.items():
                weights = "balanced" if name == "balanced" else None
                svm = LinearSVC(C=NGRAM_STRENGTH, class_weight=weights, random_state=0)
                answers = svm.fit(heard, one.labels("train")).predict(asked)
                found.append(answers == np.array(one.labels("test")))
        shown = ", ".join(f"{name} {100 * np.concatenate(found).mean():.1f}" for name, found in right.items())
        print(f"{row.name}: labels {shown}", flush=True)


if __name__ == "__main__":
    main()
