"""Optimizers: the family of a model, chosen when it is made, and the settings of each step.

AdamW and Dimuon have classes; `OptimizerConfigBase` and `OptimParamsBase` carry a family that only
a service knows, with whatever fields it has. AdamW's settings came first on the wire and have no
`type`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import Discriminator, Tag

from tinsmith.types._model import RequestModel, allowed

__all__ = [
    "AdamOptimizerConfig",
    "AdamParams",
    "DimuonOptimizerConfig",
    "DimuonParams",
    "OptimParams",
    "OptimParamsBase",
    "OptimizerConfig",
    "OptimizerConfigBase",
]


def _is_finite(value: float) -> bool:
    return math.isfinite(value)


def _at_least_zero(value: float) -> bool:
    return value >= 0 and math.isfinite(value)


_Finite = Annotated[float, allowed(_is_finite, "must be finite")]
_NotNegative = Annotated[float, allowed(_at_least_zero, "must be 0 or more, and finite")]
_Beta = Annotated[float, allowed(lambda b: 0 <= b < 1, "must be in [0, 1)")]


class AdamParams(RequestModel):
    """Settings of one AdamW step."""

    learning_rate: _NotNegative = 1e-4
    beta1: _Beta = 0.9
    """Decay of the first moment."""
    beta2: _Beta = 0.95
    """Decay of the second moment."""
    eps: Annotated[
        float, allowed(lambda e: e > 0 and math.isfinite(e), "must be above 0, and finite")
    ] = 1e-12
    weight_decay: _NotNegative = 0.0
    """Decoupled: weights shrink by learning_rate * weight_decay a step."""
    grad_clip_norm: _NotNegative = 0.0
    """Greatest global norm of the gradient; 0 clips nothing."""


class OptimParamsBase(RequestModel, frozen=True, extra="allow"):  # pyright: ignore[reportGeneralTypeIssues] - frozen
    """Settings of one step of a family that has no class here."""

    type: str


class DimuonParams(OptimParamsBase, frozen=True, extra="forbid"):
    """Settings of one Dimuon step, for a model that was created with `DimuonOptimizerConfig`."""

    type: Literal["dimuon"] = "dimuon"
    learning_rate: _NotNegative
    """Of a direction with Frobenius norm sqrt(rank), at rank 32."""
    grad_clip_norm: _Finite = 0.0
    """Greatest global norm of the gradient; 0 or less clips nothing."""
    beta1: _Beta = 0.9
    """Decay of the momentum."""


class OptimizerConfigBase(RequestModel, frozen=True, extra="allow"):  # pyright: ignore[reportGeneralTypeIssues] - frozen
    """A family that has no class here."""

    type: str


class AdamOptimizerConfig(OptimizerConfigBase, frozen=True, extra="forbid"):
    """AdamW, the family of a model that asks for none."""

    type: Literal["adamw"] = "adamw"


class DimuonOptimizerConfig(OptimizerConfigBase, frozen=True, extra="forbid"):
    """Dimuon, as Tinsmith reads it: another service's may differ in numbers.

    Its rule is public in part only; docs/decisions/0006-dimuon.md says what was chosen.
    """

    type: Literal["dimuon"] = "dimuon"
    version: Literal[1] = 1


def _type_of(value: object) -> object:
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value).get("type")
    return getattr(value, "type", None)


def _config_tag(value: object) -> str:
    family = _type_of(value)
    return family if family in ("adamw", "dimuon") else "other_family"


def _params_tag(value: object) -> str:
    family = _type_of(value)
    if family is None:
        return "adamw"
    return "dimuon" if family == "dimuon" else "other_family"


OptimizerConfig = Annotated[
    Annotated[AdamOptimizerConfig, Tag("adamw")]
    | Annotated[DimuonOptimizerConfig, Tag("dimuon")]
    | Annotated[OptimizerConfigBase, Tag("other_family")],
    Discriminator(_config_tag),
]
"""The family of a model, told apart by `type`."""

OptimParams = Annotated[
    Annotated[AdamParams, Tag("adamw")]
    | Annotated[DimuonParams, Tag("dimuon")]
    | Annotated[OptimParamsBase, Tag("other_family")],
    Discriminator(_params_tag),
]
"""Settings of a step, of any family."""
