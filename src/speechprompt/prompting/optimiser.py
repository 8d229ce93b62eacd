"""Adam as the reference runs it, and gradient clipping for one entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


class PublishedAdam(torch.optim.Adam):
    """fairseq's Adam: eps is added before the bias correction of the second moment, not after.

    Dividing eps by sqrt(1 - beta2^t) at step t turns torch's rule into that one.
    """

    def __init__(
        self, parameters: Iterable[Parameter], lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps)
        self._eps, self._steps = eps, 0

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update."""
        self._steps += 1
        for group in self.param_groups:
            group["eps"] = self._eps / (1 - group["betas"][1] ** self._steps) ** 0.5
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        """Moments, and how many steps were made."""
        return {**super().state_dict(), "published_steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        state_dict = dict(state_dict)
        self._steps = state_dict.pop("published_steps")
        super().load_state_dict(state_dict)


def clip(parameters: Sequence[Parameter], norm: float | None) -> Tensor:
    """Scale the gradients of `parameters` to at most `norm` (None: leave them); the norm before scaling."""
    return torch.nn.utils.clip_grad_norm_(parameters, float("inf") if norm is None else norm)
