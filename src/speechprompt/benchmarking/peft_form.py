"""peft's PREFIX_TUNING on the same unit LM: what a user of that library would write."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from speechprompt.benchmarking.naive import PADDING, SEPARATOR
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.speech.units import Units


def is_installed() -> bool:
    """Whether peft can be imported; looking does not import it."""
    return importlib.util.find_spec("peft") is not None


def source_rows(units: Sequence[Units], lm: GslmUnitLM) -> Tensor:
    """Rows `</s> u1..un <s>` of LM ids (B,T), right-padded with 1, on the LM's device."""
    rows = torch.full((len(units), max(map(len, units)) + 2), PADDING)
    for i, row in enumerate(units):
        ids = [lm.start_id, *lm.lm_ids(torch.from_numpy(row.ids)).tolist(), SEPARATOR]
        rows[i, : len(ids)] = torch.tensor(ids)
    return rows.to(lm.device)


class PeftPrefix:
    """A prefix of peft's over the frozen LM and a linear map from the last logits to labels.

    The LM's weights are shared, and stay as they are. Its rows end with the LM's own `<s>`, which is not trained.
    """

    def __init__(self, lm: GslmUnitLM, prompt_length: int, labels: int) -> None:
        self._lm, self._length = lm, prompt_length
        self.head = nn.Linear(lm.vocabulary_size, labels, bias=False, device=lm.device)

    @cached_property
    def model(self) -> nn.Module:
        """The LM in peft's wrapping."""
        from peft import PrefixTuningConfig, get_peft_model

        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self._length,
            num_layers=self._lm.layers,
            token_dim=self._lm.width,
            num_attention_heads=self._lm.heads,
            num_transformer_submodules=1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft asks transformers for names that are on their way out
            wrapped: nn.Module = get_peft_model(self._lm.pretrained(), config)
        return wrapped

    @cached_property
    def _optimiser(self) -> torch.optim.Optimizer:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.AdamW([*trained, *self.head.parameters()], 1e-3)

    def scores(self, source: Tensor) -> Tensor:
        """Scores (B,C) of rows (B,T)."""
        valid = source != PADDING
        logits = self.model(input_ids=source, attention_mask=valid.long()).logits
        last = logits[torch.arange(len(source), device=source.device), valid.sum(1) - 1]
        found: Tensor = self.head(last.float())
        return found

    @torch.inference_mode()
    def predict(self, source: Tensor) -> Tensor:
        """The best label of each row, on the CPU."""
        return self.scores(source).argmax(-1).cpu()

    def step(self, source: Tensor, targets: Tensor) -> float:
        """One update on rows (B,T) and labels (B,); the loss."""
        loss = nn.functional.cross_entropy(self.scores(source), targets)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in self._optimiser.param_groups for p in group["params"]], 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())
