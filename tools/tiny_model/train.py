"""Train the model from scratch: Muon for the matrices inside, AdamW for embeddings and norms.

The number of steps is fixed beforehand, so the result depends on seeds, versions, machine and
thread count, never on how long it took. The schedule is ours: a linear rise, a flat part and two
falling lines, the last one down to zero. Main names: ``TrainConfig``, ``train``, ``save_model``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from batches import Batch, Rows, Stream, pack, packed_rows
from safetensors.torch import save_file
from tokenizer import END_OF_TEXT_ID, IM_END_ID
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

ROPE_THETA = 10000.0
SAVE_EVERY = 100
"""Steps between saved states."""
CONFIG_KEYS = (
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "attention_dropout",
    "max_position_embeddings",
    "rope_parameters",
    "tie_word_embeddings",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "use_cache",
    "dtype",
    "transformers_version",
)
"""The entries of ``config.json``; the others are defaults that say nothing about this model."""


@dataclass(frozen=True)
class TrainConfig:
    """What fixes a training run."""

    steps: int = 1500
    tokens_per_step: int = 4096
    row_length: int = 256
    muon_lr: float = 0.02
    adamw_lr: float = 4e-3
    warmup_steps: int = 40
    """Steps with rising learning rate."""
    slow_end: int = 2200
    """Where the learning rate, falling from half of this step on, would reach zero..."""
    last_steps: int = 138
    """...did it not fall faster at the end, as steps left over this many."""
    copy_share: float = 0.1
    """Share of text to copy among the documents, once the learning rate falls."""
    seed: int = 1234
    threads: int = 2
    extra_text: tuple[Path, ...] = field(default=())


def model_config(vocab_size: int) -> Qwen3Config:
    """Return the architecture: Qwen3, 4 layers, 3.3 M parameters, tied embeddings."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=IM_END_ID,
        pad_token_id=END_OF_TEXT_ID,
    )


def schedule(step: int, config: TrainConfig) -> float:
    """Return the factor on the learning rates at a step: the least of four straight lines."""
    rise = (step + 1) / config.warmup_steps
    slow_fall = (config.slow_end - step) / config.slow_end / 0.5
    last_fall = (config.steps - step) / config.last_steps
    return min(1.0, rise, slow_fall, last_fall)


def loss_of(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the weighted mean cross-entropy of a batch."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden_BTD = model.model(
            batch.tokens_BT,
            attention_mask=batch.mask_B1TT,
            position_ids=batch.positions_BT,
            use_cache=False,
        ).last_hidden_state
        used = batch.weights_BT > 0
        logits_NV = model.lm_head(hidden_BTD[used])
    losses_N = torch.nn.functional.cross_entropy(
        logits_NV.float(), batch.targets_BT[used], reduction="none"
    )
    weights_N = batch.weights_BT[used]
    return (losses_N * weights_N).sum() / weights_N.sum()


def _optimizers(model: Qwen3ForCausalLM, config: TrainConfig) -> list[torch.optim.Optimizer]:
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(inner, lr=config.muon_lr, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(
            outer, lr=config.adamw_lr, betas=(0.9, 0.98), eps=1e-10, weight_decay=0.0
        ),
    ]


def save_model(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Write ``config.json``, ``generation_config.json`` and the weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    full = model.config.to_dict() | {"architectures": ["Qwen3ForCausalLM"], "dtype": "bfloat16"}
    config = {key: full[key] for key in CONFIG_KEYS} | {"rope_theta": ROPE_THETA}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    generation = {
        "do_sample": False,
        "eos_token_id": [IM_END_ID, END_OF_TEXT_ID],
        "pad_token_id": END_OF_TEXT_ID,
        "max_new_tokens": 128,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def _stream(tokenizer: Tokenizer, config: TrainConfig) -> Iterator[tuple[Rows, int]]:
    """Yield the batches of a run: text to copy joins when the learning rate begins to fall."""
    sizes = (config.tokens_per_step, config.row_length)
    first = Stream(config.seed, extra_text=config.extra_text)
    second = Stream(config.seed + 1000, config.copy_share, config.extra_text)
    yield from islice(packed_rows(tokenizer, first, *sizes), config.slow_end // 2)
    yield from packed_rows(tokenizer, second, *sizes)


def _save_state(
    path: Path, model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "step": step,
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def _load_state(
    path: Path, model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> int:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def train(
    tokenizer: Tokenizer, config: TrainConfig, folder: Path, resume: bool = False
) -> Qwen3ForCausalLM:
    """Train for ``config.steps`` steps; ``folder/state.pt`` keeps the last state.

    A run resumed before the learning rate falls may have another number of steps than it began
    with: it is then the same as a run with that number from the start.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True)
    model = Qwen3ForCausalLM(model_config(tokenizer.get_vocab_size()))
    optimizers = _optimizers(model, config)
    stream = _stream(tokenizer, config)
    folder.mkdir(parents=True, exist_ok=True)
    first = _load_state(folder / "state.pt", model, optimizers) if resume else 0
    for _ in range(first):
        next(stream)
    started, seen, smooth = time.perf_counter(), 0, 0.0
    for step in range(first, config.steps):
        factor = schedule(step, config)
        for optimizer, rate in zip(optimizers, (config.muon_lr, config.adamw_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        batch = pack(*next(stream), tokenizer)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += int((batch.weights_BT > 0).sum())
        smooth = loss.item() if step == first else 0.95 * smooth + 0.05 * loss.item()
        if (step + 1) % 25 == 0:
            speed = seen / (time.perf_counter() - started)
            print(
                f"step {step + 1}/{config.steps} loss {smooth:.4f} {speed:.0f} tokens/s", flush=True
            )
        if (step + 1) % SAVE_EVERY == 0:
            _save_state(folder / "state.pt", model, optimizers, step + 1)
    return model
