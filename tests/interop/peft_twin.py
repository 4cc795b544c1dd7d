"""The same training once more: transformers, PEFT and torch.optim in float64, datum by datum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.unit.engine.training_reference import reference_loss


class PeftTwin:
    """What a model must become when the service is given the same calls."""

    def __init__(self, model_dir: Path, adapter_dir: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
        self.model: Any = PeftModel.from_pretrained(model, adapter_dir, is_trainable=True)
        self.model.eval().to(torch.float64)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer: torch.optim.AdamW | None = None

    def all_logprobs(self, tokens: Sequence[int]) -> Tensor:
        """Log-probabilities of the whole vocabulary after each token."""
        logits = self.model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
        return torch.log_softmax(logits, -1)

    def logprobs(self, datum: Any) -> Tensor:
        """Log-probabilities of a datum's targets."""
        targets = datum.loss_fn_inputs["target_tokens"].to_torch()
        chosen = targets if targets.ndim == 2 else targets[:, None]
        lp = self.all_logprobs(datum.model_input.to_ints())
        return lp.gather(-1, chosen).reshape(targets.shape)

    def loss(
        self, data: Sequence[Any], loss_fn: str, config: Mapping[str, float] | None = None
    ) -> Tensor:
        """The loss, summed over tokens and datums."""
        total = torch.zeros((), dtype=torch.float64)
        for datum in data:
            inputs = {
                name: tensor.to_torch().double()
                for name, tensor in datum.loss_fn_inputs.items()
                if name != "target_tokens"
            }
            losses = reference_loss(loss_fn, self.logprobs(datum), inputs, dict(config or {}))
            total = total + losses.sum()
        return total

    def step(self, params: Any) -> float:
        """torch's AdamW on what `backward` accumulated; returns the gradient's norm."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.parameters)
        settings = {
            "lr": params.learning_rate,
            "betas": (params.beta1, params.beta2),
            "eps": params.eps,
            "weight_decay": params.weight_decay,
        }
        for group in self.optimizer.param_groups:
            group.update(settings)
        max_norm = params.grad_clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)
