"""What is known of base models: size, context, renderers in order, and where to start training.

The facts are in `models.toml` beside this module; `get_model_info` reads one row,
`recommended_learning_rate` and `lora_defaults` say what to start with.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tinsmith.core.errors import UserError, unknown_name

__all__ = [
    "LoraDefaults",
    "ModelInfo",
    "get_model_info",
    "has_fitted_learning_rate",
    "list_models",
    "lora_defaults",
    "recommended_learning_rate",
]

_TABLE = Path(__file__).with_name("models.toml")


@dataclass(frozen=True)
class ModelInfo:
    """A base model.

    Attributes:
        name: As on the Hub.
        organization: Who published it.
        family: Models that share architecture and chat format.
        version: Version within the family.
        size_b: Parameters in billions.
        active_b: Parameters that one token meets, in billions; `size_b` for a dense model.
        context_length: Longest sequence, in tokens.
        renderers: Names of the renderers that write the model's format, the recommended one first.
        hidden_size: Width of the residual stream; None where it is not confirmed.
        is_chat: Whether it was trained on conversations.
        has_vision: Whether it reads images.
        has_audio: Whether it reads audio.
    """

    name: str
    organization: str
    family: str
    version: str
    size_b: float
    active_b: float
    context_length: int
    renderers: tuple[str, ...]
    hidden_size: int | None = None
    is_chat: bool = False
    has_vision: bool = False
    has_audio: bool = False

    @property
    def is_mixture_of_experts(self) -> bool:
        return self.active_b < self.size_b


class LoraDefaults(NamedTuple):
    """Where to start with an adapter."""

    rank: int
    train_attn: bool
    train_mlp: bool
    train_unembed: bool


def list_models() -> list[str]:
    """Names of the models that the table knows, in its order."""
    return list(_table()["models"])


def get_model_info(name: str) -> ModelInfo:
    """The table's row of a model.

    Example:
        >>> get_model_info("Qwen/Qwen3-8B").renderers
        ('qwen3', 'qwen3_disable_thinking')

    Raises:
        UnknownNameError: The table has no such model; the message offers the nearest name.
    """
    models = _table()["models"]
    if name not in models:
        raise unknown_name("model", name, models, field="model")
    row: dict[str, Any] = {"active_b": models[name]["size_b"], **models[name]}
    row["renderers"] = tuple(row["renderers"])
    organization = _table()["families"][row["family"]]["organization"]
    return ModelInfo(name=name, organization=organization, **row)


def lora_defaults() -> LoraDefaults:
    """Rank and trained parts of an adapter that nobody has tuned."""
    return LoraDefaults(**_table()["lora"])


def recommended_learning_rate(name: str, *, is_lora: bool = True) -> float:
    """Peak learning rate to start a model's fine-tuning with.

    `5e-5 * (10 if is_lora) * (2000 / hidden_size) ** exponent`; the exponent is the family's. Those
    of llama (0.781) and qwen (0.0775) were fitted to sweeps; kimi takes qwen's; 0.5 in the other
    families is a guess (`has_fitted_learning_rate` tells).

    Example:
        >>> f"{recommended_learning_rate('meta-llama/Llama-3.1-8B'):.2e}"
        '2.86e-04'

    Raises:
        UserError: The model is unknown, or its width is.
    """
    info = get_model_info(name)
    if info.hidden_size is None:
        raise UserError(
            f"model={name!r}: its hidden_size is not in the table, so no learning rate follows",
            field="learning_rate",
            hint="choose one; 2e-4 to 5e-4 is usual for LoRA",
        )
    rule = _table()["learning_rate"]
    factor = rule["lora_factor"] if is_lora else 1
    exponent = _table()["families"][info.family]["lr_exponent"]
    return rule["base"] * factor * (rule["reference_hidden_size"] / info.hidden_size) ** exponent


def has_fitted_learning_rate(name: str) -> bool:
    """Whether the exponent behind a model's recommended learning rate was measured."""
    return _table()["families"][get_model_info(name).family]["lr_is_fitted"]


@cache
def _table() -> dict[str, Any]:
    # Any: the rows of a TOML file; a test checks that every row is complete and well typed.
    return tomllib.loads(_TABLE.read_text(encoding="utf-8"))
