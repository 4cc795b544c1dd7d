"""An adapter folded into its base model: a full model that plain transformers loads.

Products are added in float32 and stored in the base model's own dtype. Where the adapter trains
the output layer and the base model ties it to the embedding, the two are untied first, since only
one of them changes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinsmith.core.paths import atomic_directory
from tinsmith.engine.base_model import BaseModel, load_base_model
from tinsmith.engine.checkpoints import read_peft

__all__ = ["merge_adapter"]

logger = logging.getLogger(__name__)


def merge_adapter(
    adapter: Path, directory: Path, *, base_model: str, overwrite: bool = False
) -> None:
    """Write the model that a PEFT LoRA directory makes of its base model.

    Args:
        adapter: as `save_weights_for_sampler` and `save_weights_external` write it.
        directory: appears when the model is complete.
        base_model: `tinsmith/tiny`, a local directory, or a Hub name.
        overwrite: replace the directory if it is there.

    Raises:
        ConfigError: the base model cannot be loaded, or the adapter is not of it.
        AlreadyExistsError: the directory exists and is not to be replaced.
    """
    with atomic_directory(directory, overwrite=overwrite) as staging:
        base = load_base_model(base_model, "cpu", _own_dtype(base_model))
        snapshot = read_peft(base, adapter)
        _untie_head(base, is_trained=base.head.name in snapshot.weights)
        with torch.no_grad():
            for name, (a, b, scale) in snapshot.weights.items():
                weight = base.layers[name].weight  # for Conv1D a transposed view: written through
                product = scale * (b.float() @ a.float())
                weight.copy_((weight.float() + product).to(weight.dtype))
        for name, layer in base.layers.items():
            base.model.set_submodule(name, layer.base)
        base.model.save_pretrained(staging)
        _copy_tokenizer(base_model, base.directory, staging)


def _untie_head(base: BaseModel, *, is_trained: bool) -> None:
    config = base.model.config
    if not is_trained or not getattr(config, "tie_word_embeddings", False):
        return
    head = base.head.base
    head.weight = nn.Parameter(base.head.weight.detach().clone(), requires_grad=False)
    config.tie_word_embeddings = False


def _own_dtype(base_model: str) -> torch.dtype:
    from transformers import AutoConfig

    from tinsmith.core.paths import BUNDLED_MODEL, bundled_model_dir

    source = bundled_model_dir() if base_model == BUNDLED_MODEL else base_model
    try:
        dtype = AutoConfig.from_pretrained(source).dtype
    except (OSError, ValueError):  # `load_base_model` says what is wrong
        return torch.float32
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _copy_tokenizer(base_model: str, source: Path | None, directory: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source or base_model)
    except (OSError, ValueError) as error:
        logger.warning("base_model=%r has no tokenizer to copy: %s", base_model, error)
        return
    tokenizer.save_pretrained(directory)
