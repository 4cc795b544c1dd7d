"""The peer: a bare transformers + PEFT loop, written as people write it.

It trains the same adapter (loaded from the PEFT directory that Tinsmith saved) on the same
sequences: right padding to the longest, an attention mask, summed cross-entropy over the labels,
fused AdamW. Main name: `Peer`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bench.batches import Example

__all__ = ["Peer", "StepResult"]

TARGET_MODULES = [
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
    "lm_head",
]
IGNORED = -100


class StepResult(NamedTuple):
    """What a pass over a batch gave."""

    loss: float
    grad_norm: float


class Peer:
    """A PEFT model and its optimizer."""

    def __init__(self, model: Any, learning_rate: float) -> None:  # Any: a PeftModel
        self.model = model.train()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=learning_rate,
            betas=(0.9, 0.95),
            eps=1e-12,
            weight_decay=0.0,
            fused=True,
        )

    @classmethod
    def from_adapter(cls, base: Path, adapter: Path, *, learning_rate: float) -> Peer:
        """An adapter that was saved in PEFT's format."""
        from peft import PeftModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about adapting tied embeddings, which we mean
            model = PeftModel.from_pretrained(_base(base), adapter, is_trainable=True)
        return cls(model, learning_rate)

    @classmethod
    def fresh(cls, base: Path, *, rank: int, learning_rate: float) -> Peer:
        """A new adapter on the layers that Tinsmith adapts."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=rank, lora_alpha=32, target_modules=TARGET_MODULES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            return cls(get_peft_model(_base(base), config), learning_rate)

    def for_sampling(self) -> Peer:
        """Itself, in eval mode."""
        self.model.eval()
        return self

    def train_step(self, examples: Sequence[Example]) -> float:
        """One step on one batch; returns the loss."""
        loss = self.backward(examples)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def backward(self, examples: Sequence[Example]) -> float:
        """Add a batch's gradients; returns the loss."""
        input_ids, attention_mask, labels = collate(examples)
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        loss = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        loss.backward()
        return loss.item()

    def gradient(self, examples: Sequence[Example]) -> StepResult:
        """Loss and gradient norm of a batch; nothing is kept."""
        loss = self.backward(examples)
        norms = [p.grad.norm() for p in self.parameters if p.grad is not None]
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss, torch.stack(norms).norm().item())

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], *, num_tokens: int, copies: int) -> Tensor:
        """Sample `num_tokens` after every prompt (all of one length), `copies` times each."""
        input_ids = torch.tensor(prompts)
        return self.model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            num_return_sequences=copies,
            pad_token_id=0,
        )[:, input_ids.shape[1] :]

    @torch.no_grad()
    def logprobs(self, tokens: Sequence[int]) -> Tensor:
        """Logprob of every token but the first, given those before it."""
        input_ids = torch.tensor([tokens])
        logprobs = self.model(input_ids=input_ids[:, :-1]).logits[0].log_softmax(-1)
        return logprobs.gather(-1, input_ids[0, 1:, None]).squeeze(-1)


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Input ids, attention mask and labels, each [sequences, longest], padded on the right."""
    width = max(len(example.tokens) for example in examples) - 1
    input_ids = torch.zeros(len(examples), width, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED)
    for row, (tokens, num_loss_tokens) in enumerate(examples):
        length = len(tokens) - 1
        input_ids[row, :length] = torch.tensor(tokens[:-1])
        attention_mask[row, :length] = 1
        labels[row, length - num_loss_tokens : length] = torch.tensor(tokens[-num_loss_tokens:])
    return input_ids, attention_mask, labels


def _base(directory: Path) -> Any:  # Any: a transformers model
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
