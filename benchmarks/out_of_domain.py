"""Which score tells clips that a prompt knows from clips that it does not: AUROC on real corpora.

    python benchmarks/out_of_domain.py --prompt prompts/digits --corpus fsdd.jsonl --others esc10.jsonl,arabic.jsonl

Known are the test clips of the prompt's own corpus, unknown all clips of the others. Fitted on train and valid.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from speechprompt import Artifact, Corpus, SpokenLM, encode_corpus
from speechprompt.lms.batch import collate
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.artifact import read_config
from speechprompt.prompting.domain import fit_domain
from speechprompt.prompting.outputs import Outputs, outputs_of
from speechprompt.prompting.run import Examples
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.units import Units


@torch.no_grad()
def bits_a_unit(lm: GslmUnitLM, units: Sequence[Units]) -> Tensor:
    """Bits a unit (n,) that the bare LM needs for each utterance."""
    found = torch.empty(len(units))
    for indices in length_buckets([len(row) for row in units], 64, None):
        batch = collate([units[i] for i in indices])
        inside = torch.arange(batch.unit_ids.shape[1]) < batch.lengths[:, None]
        ids = lm.lm_ids(torch.where(inside, batch.unit_ids, 0))
        states = lm.model.decoder(lm.embed(batch, None, None))
        nats = -lm.heads_of(states[:, :-1])["units"].log_softmax(-1).gather(2, ids[..., None])[..., 0]
        found[indices] = (nats * inside).sum(1) / batch.lengths / math.log(2)
    return found


def measure(folder: Path, own: Path, others: Sequence[Path]) -> dict[str, dict[str, float]]:
    """AUROC of every candidate against each other corpus, and how the shipped limit behaves."""
    lm = SpokenLM.load(read_config(folder).spoken_lm)
    entry = Artifact.load(folder, lm).entry
    unit_lm = lm.lm
    assert isinstance(unit_lm, GslmUnitLM)
    corpus = encode_corpus(Corpus.read(own), lm).corpus
    splits = {s: Examples.of(entry.task, corpus.split(s)) for s in ("train", "valid", "test")}
    outputs = {split: outputs_of(unit_lm, entry, examples) for split, examples in splits.items()}
    domain = fit_domain(outputs["train"].hidden, splits["train"].targets[:, 0], outputs["valid"].hidden)
    assert domain is not None
    usual = bits_a_unit(unit_lm, splits["valid"].units)

    def candidates(of: Outputs, units: Sequence[Units]) -> Mapping[str, Tensor]:
        bits = bits_a_unit(unit_lm, units)
        best = torch.stack([scores.max(1).values for scores in of.scores.values()]).sum(0)
        return {
            "bits a unit": bits,
            "bits a unit, from the usual": (bits - usual.mean()).abs(),
            "score": -best,
            "distance": domain.distances(of.hidden),
        }

    known = candidates(outputs["test"], splits["test"].units)
    table = {}
    for path in others:
        rows = encode_corpus(Corpus.read(path), lm).corpus.utterances
        units = [u.units for u in rows if u.units is not None]
        blank = Examples(units, torch.zeros(len(units), len(entry.task.slots), dtype=torch.int64))
        unknown = candidates(outputs_of(unit_lm, entry, blank), units)
        truth = [0] * len(splits["test"]) + [1] * len(units)
        numbers = {
            name: float(roc_auc_score(truth, torch.cat([known[name], unknown[name]]).numpy()))
            for name in known
        }
        numbers["unknown clips over the limit"] = float((unknown["distance"] > 1).float().mean())
        numbers["known clips over the limit"] = float((known["distance"] > 1).float().mean())
        table[path.stem if path.stem != "manifest" else path.parent.name] = numbers
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="what the prompt was trained on")
    parser.add_argument("--others", type=lambda text: [Path(part) for part in text.split(",")], required=True)
    given = parser.parse_args()
    print(json.dumps(measure(given.prompt, given.corpus, given.others), indent=1))
