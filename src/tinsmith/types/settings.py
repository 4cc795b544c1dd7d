"""Settings that people choose: of an adapter, of sampling. Optimizers have a module of their own.

Each value is checked when the object is built; the rules are those of the service.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Annotated, Literal, SupportsIndex, cast

import numpy as np
from pydantic import PlainValidator
from pydantic.json_schema import WithJsonSchema

from tinsmith.core.errors import ConfigError
from tinsmith.types._model import Flag, RequestModel, allowed

__all__ = [
    "LoraConfig",
    "LossFnType",
    "SamplingParams",
]

LossFnType = Literal[
    "cross_entropy",
    "importance_sampling",
    "ppo",
    "cispo",
    "dro",
    "gspo",
    "stable_reinforce",
    "custom",
]
"""Names of losses in the protocol; the service says which of them it computes."""


def _at_least_zero(value: float) -> bool:
    return value >= 0 and math.isfinite(value)


_Seed = Annotated[int | None, allowed(lambda s: -(2**63) <= s < 2**63, "must fit in 64 bits")]


class LoraConfig(RequestModel):
    """Shape of a low-rank adapter."""

    rank: Annotated[int, allowed(lambda r: 1 <= r <= 256, "must be 1..256", "try rank=32")]
    seed: _Seed = None
    """Seed of the initial weights; None draws one."""
    train_unembed: Flag = True
    """Adapt the output layer."""
    train_mlp: Flag = True
    """Adapt the MLP layers, experts included."""
    train_attn: Flag = True
    """Adapt the attention layers."""


def _stop(value: object) -> str | list[str] | list[int] | None:
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, (list, tuple, np.ndarray)):
        items = list(cast("Sequence[object]", value))
        if all(isinstance(item, str) and item for item in items):
            return cast("list[str]", items)
        tokens = [_token_id(item) for item in items]
        if all(token is not None for token in tokens):
            return cast("list[int]", tokens)
    raise ConfigError(
        f"stop={value!r}: must be a text, a list of texts or a list of token ids, none empty",
        field="stop",
        hint="leave it out to stop at the end of turn, or give [] to stop at nothing",
    )


def _token_id(value: object) -> int | None:
    if isinstance(value, (bool, str)) or not hasattr(value, "__index__"):
        return None
    token = operator.index(cast("SupportsIndex", value))
    return token if 0 <= token < 2**31 else None


class SamplingParams(RequestModel):
    """How to draw tokens."""

    max_tokens: Annotated[int | None, allowed(lambda n: n >= 1, "must be 1 or more")] = None
    """Tokens to draw at most; None leaves only the model's context length."""
    seed: _Seed = None
    """The same seed, prompt and weights give the same tokens; None draws one."""
    stop: Annotated[
        str | list[str] | list[int] | None,
        PlainValidator(_stop),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "array", "items": {"type": "integer"}},
                    {"type": "null"},
                ]
            }
        ),
    ] = None
    """Texts or tokens that end a sequence. None: the model's own end tokens; []: nothing ends it
    but `max_tokens`."""
    temperature: Annotated[float, allowed(_at_least_zero, "must be 0 or more, and finite")] = 1.0
    """0 takes the likeliest token each time."""
    top_k: Annotated[
        int,
        allowed(lambda k: k == -1 or 1 <= k < 2**63, "must be -1 (off), or 1 or more in 64 bits"),
    ] = -1
    """Draw among the k likeliest tokens only."""
    top_p: Annotated[float, allowed(lambda p: 0 < p <= 1, "must be in (0, 1]")] = 1.0
    """Draw among the fewest tokens whose probabilities reach p."""
