"""The words that options and artifacts choose from; no torch, so that reading them is quick."""

from __future__ import annotations

from typing import Literal

Method = Literal["before_projection", "after_projection", "input"]
"""Where a prompt enters attention: before the frozen projections, after them, or as rows of input."""

Decoding = Literal["parallel", "autoregressive"]
"""How slots are read: all at the separator, or one after another."""

VerbalizerName = Literal["random", "frequency", "learnable"]
"""How LM outputs become labels."""

NgramKind = Literal["ngrams", "pairs"]
"""Which n-grams of units stand beside a prompt: 1- to 3-grams, or units and pairs of units up to three places apart."""
LARGEST_SEED = 2**32 - 1
"""The largest seed that every generator takes; scikit-learn's takes no larger one."""
MOST_MEMBERS = 16
"""Most prompts that answer together."""
MOST_BUCKETS = 2**16
"""Most buckets that n-grams of units are hashed to: the hash has 16 bits to choose one by."""
