"""Tiny random models of several architectures, for tests of the engine."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB_SIZE = 96

_COMMON = {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
_LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3": {**_LLAMA_LIKE, "head_dim": 8, "tie_word_embeddings": True},
    "llama": {**_LLAMA_LIKE, "tie_word_embeddings": False},
    "qwen2": {**_LLAMA_LIKE, "tie_word_embeddings": False},
    "mistral": {**_LLAMA_LIKE, "sliding_window": 6},
    # Layers with and without a sliding window.
    "mixed_windows": {
        **_LLAMA_LIKE,
        "model_type": "qwen3",
        "head_dim": 8,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
    },
    "phi3": {**_LLAMA_LIKE, "pad_token_id": 0},
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "mixtral": {**_LLAMA_LIKE, "num_local_experts": 2},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "pad_token_id": 0,
    },
    # Scales its logits after the output layer.
    "granite": {**_LLAMA_LIKE, "logits_scaling": 8.0},
}


def make_random_model(arch: str, *, seed: int = 0, **overrides: Any) -> Any:
    """A causal LM with weights large enough that every layer matters to the logits."""
    settings = {"model_type": arch, **_COMMON, **_ARCHITECTURES[arch], **overrides}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.5 if "embed" in name or "wte" in name else 0.15)
            elif "norm" in name or "ln" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
    return model.eval()


def save_random_model(directory: Path, arch: str, *, seed: int = 0) -> Path:
    """Save `make_random_model` as a local model directory (no tokenizer)."""
    make_random_model(arch, seed=seed).save_pretrained(directory)
    return directory
