"""What bfloat16 does to units: frames whose unit is that of fp32, and what that costs a classifier.

    python benchmarks/hubert_precision.py MANIFEST [--seconds 60] [--accuracy]

HuBERT-base to layer 6 with random weights, 100 centres fitted on fp32 features of every other clip, frames of the
others compared; beside it transformers' own model in bfloat16. Random weights stand for trained ones neither way.
`--accuracy`: the bundled tokenizer's trained encoder with its products
in bfloat16 instead, on all clips: content units that agree, and the accuracy of an n-gram SVM trained on train's fp32
units and asked about test's in both precisions. One thread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans as Clustering
from torch import Tensor
from transformers import HubertConfig, HubertModel

from speechprompt import Corpus, SpokenLM
from speechprompt.evaluation.baselines import NgramBaseline
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.units import deduplicate
from speechprompt.tokenizers.hubert_encoder import HubertEncoder
from speechprompt.tokenizers.hubert_files import build
from speechprompt.tokenizers.kmeans import KMeans
from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer

LAYER, CENTRES = 6, 100
Clip = NDArray[np.float32]


def main() -> None:
    """Read the corpus, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of speech for the random HuBERT")
    parser.add_argument("--accuracy", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    corpus = Corpus.read(arguments.manifest)
    if arguments.accuracy:
        trained_encoder(corpus)
    else:
        random_hubert(corpus, arguments.seconds)


def random_hubert(corpus: Corpus, seconds: float) -> None:
    """Agreement of a random HuBERT-base's units."""
    rows = corpus.utterances
    order = np.random.default_rng(0).permutation(len(rows))
    clips: list[Clip] = []
    while sum(map(len, clips)) < 16_000 * seconds and len(clips) < len(rows):
        clips.append(read_waveform(rows[order[len(clips)]].audio, 16_000)[0])
    torch.manual_seed(0)
    whole = HubertModel(HubertConfig()).eval()

    def encoder(dtype: torch.dtype) -> HubertEncoder:
        model = build(HubertConfig(num_hidden_layers=LAYER), whole.state_dict(), "random weights")
        return HubertEncoder(torch.nn.Module.to(model, dtype), False, "published")

    exact = encoder(torch.float32).features(clips)
    points = torch.cat(exact[::2]).numpy()
    centres = Clustering(CENTRES, n_init=1, random_state=0).fit(points).cluster_centers_
    kmeans = KMeans(torch.from_numpy(centres))
    ours = encoder(torch.bfloat16).features(clips[1::2])
    plain_model = whole.bfloat16()
    plain = [
        plain_model(torch.from_numpy(clip)[None].bfloat16(), output_hidden_states=True).hidden_states[LAYER][
            0
        ]
        for clip in clips[1::2]
    ]
    spread = (torch.cat(exact[1::2]) - torch.cat(exact[1::2]).mean(0)).square().mean()
    for name, found in (("ours", ours), ("transformers", plain)):
        error = (torch.cat(found).float() - torch.cat(exact[1::2])).square().mean() / spread
        print(
            f"random HuBERT-base, {name} in bfloat16: {agreement(kmeans, exact[1::2], found):.4f} of"
            f" {sum(map(len, found))} frames have fp32's unit; error {10 * error.log10():.1f} dB of the spread"
        )


def agreement(kmeans: KMeans, exact: list[Tensor], found: list[Tensor]) -> float:
    """Share of frames with equal units."""
    return float((kmeans.assign(torch.cat(exact)) == kmeans.assign(torch.cat(found).float())).float().mean())


def trained_encoder(corpus: Corpus) -> None:
    """Agreement of the bundled encoder's content units, and an SVM's accuracy on them."""
    tokenizer = SpokenLM.load("tiny").tokenizer
    assert isinstance(tokenizer, MelHubertTokenizer)
    kmeans = KMeans(tokenizer._centres)
    ids: dict[str, list[list[NDArray[np.int64]]]] = {"train": [], "test": []}
    for split, found in ids.items():
        for row in corpus.split(split):
            clip = read_waveform(row.audio, 16_000)[0]
            both = [kmeans.assign(tokenizer.features([clip])[0])]
            with torch.autocast("cpu", torch.bfloat16):
                both.append(kmeans.assign(tokenizer.features([clip])[0].float()))
            found.append([part.numpy() for part in both])
    exact, rounded = (np.concatenate([pair[i] for pair in ids["test"]]) for i in (0, 1))
    print(f"trained encoder: {(exact == rounded).mean():.4f} of {len(exact)} test frames have fp32's unit")
    slot = next(iter(corpus.slots))
    labels = {split: [row.labels[slot] for row in corpus.split(split)] for split in ids}
    units = {
        split: [[deduplicate(part).ids.tolist() for part in pair] for pair in pairs]
        for split, pairs in ids.items()
    }
    svm = NgramBaseline().fit([pair[0] for pair in units["train"]], labels["train"])
    answers = [svm.predict([pair[i] for pair in units["test"]]).predictions for i in (0, 1)]
    right = [sum(map(str.__eq__, labels["test"], found)) / len(found) for found in answers]
    same = sum(map(str.__eq__, *answers)) / len(answers[0])
    print(
        f"n-gram SVM, {slot}: {right[0]:.4f} on fp32 units, {right[1]:.4f} on bfloat16 ones, {same:.4f} the same"
    )


if __name__ == "__main__":
    main()
