"""The vectors trained for a task, and the prefix that they fold to.

Source: SpeechPrompt v2 section 3.2 (deep prompt tuning); Li and Liang 2021 for `after_projection`. The
reference also stores an input prompt under a deep one, which never receives a gradient: it is not kept here.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from speechprompt.errors import UnknownName
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.kinds import Method


class Prompt(nn.Module):
    """Prompt of length P and a separator (D,).

    `before_projection` (the paper): raw key and value vectors (2,L,P,D), sent through the frozen projections.
    `after_projection` (prefix tuning): keys and values themselves, (L,2,kv_heads,P,head_dim).
    `input`: rows of input vectors (P,D) in front of every utterance. P = 0 leaves the bare LM.
    """

    def __init__(self, method: Method, vectors: Tensor, separator: Tensor) -> None:
        super().__init__()
        if method not in get_args(Method):
            raise UnknownName("prompt method", method, get_args(Method))
        self.method: Method = method
        self.vectors = nn.Parameter(vectors)
        self.separator = nn.Parameter(separator)

    @property
    def length(self) -> int:
        """P."""
        return self.vectors.shape[0] if self.method == "input" else self.vectors.shape[-2]

    @staticmethod
    def shape(method: Method, length: int, lm: UnitLM) -> tuple[int, ...]:
        """Shape of `vectors` for a method and an LM."""
        return {
            "before_projection": (2, lm.layers, length, lm.width),
            "after_projection": (lm.layers, 2, lm.kv_heads, length, lm.head_dim),
            "input": (length, lm.width),
        }[method]

    @classmethod
    def normal(cls, method: Method, length: int, lm: UnitLM, generator: torch.Generator) -> Prompt:
        """Vectors and separator drawn from N(0,1), as the reference does."""
        vectors = torch.randn(cls.shape(method, length, lm), generator=generator)
        return cls(method, vectors, torch.randn(lm.width, generator=generator))

    def prefix(self, lm: UnitLM, dropout: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """Keys and values that attention sees, (L,2,kv_heads,P,head_dim) in the LM's dtype.

        `dropout` zeroes elements of the raw vectors, one mask for the whole batch (the reference's rule).
        """
        vectors = drop(self.vectors, dropout, generator)
        if self.length == 0:
            shape = Prompt.shape("after_projection", 0, lm)
            return vectors.new_zeros(shape, dtype=lm.dtype)
        if self.method == "before_projection":
            return lm.project_prefix(vectors[0], vectors[1])
        if self.method == "input":
            return lm.input_prefix(vectors)
        return vectors.to(lm.dtype)


def drop(values: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout whose mask comes from a generator of its own, so that neighbours do not change it."""
    if rate == 0:
        return values
    kept = torch.rand(values.shape, generator=generator).to(values.device) >= rate
    return values * kept / (1 - rate)
