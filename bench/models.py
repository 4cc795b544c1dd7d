"""The models that are measured: the bundled one, and a random one of about 60 M parameters.

One of next to no parameters stands for "no computing". Main names: `BenchModel`, `tiny_model`,
`make_random_model`, `make_null_model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinsmith.core.paths import bundled_model_dir

__all__ = ["BenchModel", "make_null_model", "make_random_model", "tiny_model"]

RANDOM_CONFIG = {
    "hidden_size": 512,
    "intermediate_size": 1792,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 16384,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
NULL_CONFIG = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 256,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
SEED = 20


@dataclass(frozen=True)
class BenchModel:
    """A base model and how much of it to measure."""

    name: str
    """As the table shows it."""
    path: Path
    """Directory that both sides load."""
    vocab_size: int
    rounds: int
    """Rounds that count; a larger model needs fewer, for each takes longer."""
    long_rounds: int
    """Rounds of what takes many seconds each."""
    ragged_batches: int
    """Batches of recorded lengths in a round."""
    steps_ahead: int
    """Training steps in a round through the service."""


def tiny_model(*, quick: bool) -> BenchModel:
    """The model that comes with the package."""
    return BenchModel(
        name="tiny (3 M)",
        path=bundled_model_dir(),
        vocab_size=2048,
        rounds=1 if quick else 7,
        long_rounds=1 if quick else 3,
        ragged_batches=1 if quick else 2,
        steps_ahead=2 if quick else 4,
    )


def make_random_model(directory: Path, *, quick: bool) -> BenchModel:
    """Write a Qwen3 of about 60 M parameters, always with the same weights."""
    num_parameters = _write_qwen3(RANDOM_CONFIG, directory)
    return BenchModel(
        name=f"random ({num_parameters / 1e6:.0f} M)",
        path=directory,
        vocab_size=RANDOM_CONFIG["vocab_size"],
        rounds=1 if quick else 3,
        long_rounds=1 if quick else 2,
        ragged_batches=1,
        steps_ahead=2,
    )


def make_null_model(directory: Path) -> BenchModel:
    """Write a Qwen3 of one layer, eight wide: computing it costs next to nothing."""
    _write_qwen3(NULL_CONFIG, directory)
    return BenchModel(
        name="one tiny layer",
        path=directory,
        vocab_size=NULL_CONFIG["vocab_size"],
        rounds=1,
        long_rounds=1,
        ragged_batches=1,
        steps_ahead=1,
    )


def _write_qwen3(config: dict[str, Any], directory: Path) -> int:
    """Write a model with random weights; its number of parameters."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = Qwen3ForCausalLM(Qwen3Config(**config, pad_token_id=0, eos_token_id=None))
    model.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())
