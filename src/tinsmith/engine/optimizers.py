"""The optimizers of an adapter, chosen when it is made and fixed for its life.

`AdamW` is torch's; `Dimuon` has a module of its own. `make_optimizer` makes the one that a config
names. Checks and messages are here, so that both families say the same things.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tinsmith.core.errors import ConfigError
from tinsmith.engine.dimuon import Dimuon
from tinsmith.types import (
    AdamOptimizerConfig,
    AdamParams,
    DimuonParams,
    OptimizerConfig,
    OptimParams,
)

__all__ = ["AdamW", "AdapterOptimizer", "check_params", "make_optimizer"]


class AdapterOptimizer(Protocol):
    """State and update rule over one flat buffer of weights."""

    config: Any  # Any: each family's own
    params_type: Any  # Any: each family's own

    @property
    def step_count(self) -> int:
        """Steps taken."""
        ...

    def step(self, grad: Tensor, params: Any) -> None:  # Any: of `params_type`
        """One step in place, on a clipped gradient."""
        ...

    def state_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; empty before the first step."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], step_count: int) -> None:
        """Continue from `state_tensors`; ValueError where they do not fit."""
        ...


class AdamW:
    """torch's AdamW over the whole buffer."""

    params_type = AdamParams

    def __init__(self, flat: nn.Parameter) -> None:
        self.config = AdamOptimizerConfig()
        self._flat = flat
        self._torch = torch.optim.AdamW([flat], lr=0.0, fused=True)

    @property
    def step_count(self) -> int:
        """Steps taken."""
        state = self._torch.state.get(self._flat)
        return int(state["step"].item()) if state else 0

    def step(self, grad: Tensor, params: AdamParams) -> None:
        """One step in place, on a clipped gradient."""
        self._torch.param_groups[0].update(
            lr=params.learning_rate,
            betas=(params.beta1, params.beta2),
            eps=params.eps,
            weight_decay=params.weight_decay,
        )
        self._flat.grad = grad
        self._torch.step()
        self._flat.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """The moments, once a step was taken."""
        state = self._torch.state.get(self._flat, {})
        return {key: state[key] for key in ("exp_avg", "exp_avg_sq") if key in state}

    def load_state(self, tensors: Mapping[str, Tensor], step_count: int) -> None:
        """Continue from saved moments."""
        weights = self._flat.detach()
        for name in ("exp_avg", "exp_avg_sq"):
            if name not in tensors or tensors[name].shape != weights.shape:
                raise ValueError(f"{name} does not have the size of its layers")
        self._torch.state[self._flat] = {
            "step": torch.tensor(float(step_count), dtype=torch.float32, device=weights.device),
            "exp_avg": torch.empty_like(weights).copy_(tensors["exp_avg"]),
            "exp_avg_sq": torch.empty_like(weights).copy_(tensors["exp_avg_sq"]),
        }


def make_optimizer(
    config: OptimizerConfig,
    flat: nn.Parameter,
    matrices: Sequence[tuple[int, tuple[int, int]]],
    rank: int,
) -> AdapterOptimizer:
    """The optimizer that a config names, without a step taken.

    Raises:
        ConfigError: there is no such family here.
    """
    if config.type == "adamw":
        return AdamW(flat)
    if config.type == "dimuon":
        return Dimuon(flat.detach(), matrices, rank)
    raise ConfigError(
        f"optimizer_config.type={config.type!r}: must be 'adamw' or 'dimuon'",
        field="optimizer_config.type",
    )


def check_params(optimizer: AdapterOptimizer, params: OptimParams) -> AdamParams | DimuonParams:
    """Check a step's settings, and return them as what they are.

    Raises:
        ConfigError: they are another family's, or the step would silently mean nothing.
    """
    is_known = isinstance(params, (AdamParams, DimuonParams))
    if not is_known or not isinstance(params, optimizer.params_type):
        wanted = optimizer.params_type.__name__
        raise ConfigError(
            f"optim_params: are {type(params).__name__}, the model's optimizer is "
            f"{optimizer.config.type!r} and takes {wanted}",
            field="optim_params",
            hint="the family is chosen when the model is created and stays",
        )
    for name, holds, rule in _rules(params):
        value = getattr(params, name)
        if not (holds and math.isfinite(value)):
            prefix = "adam_params" if isinstance(params, AdamParams) else "optimizer_params"
            field = f"{prefix}.{name}"
            raise ConfigError(f"{field}={value}: {rule}", field=field)
    return params


def _rules(params: AdamParams | DimuonParams) -> tuple[tuple[str, bool, str], ...]:
    if isinstance(params, DimuonParams):
        return (
            ("learning_rate", params.learning_rate >= 0, "must be finite and 0 or more"),
            ("beta1", 0 <= params.beta1 < 1, "must be in [0, 1)"),
            ("grad_clip_norm", True, "must be finite (0 or less: off)"),
        )
    return (
        ("learning_rate", params.learning_rate >= 0, "must be finite and 0 or more"),
        ("beta1", 0 <= params.beta1 < 1, "must be in [0, 1)"),
        ("beta2", 0 <= params.beta2 < 1, "must be in [0, 1)"),
        ("eps", params.eps > 0, "must be finite and above 0"),
        ("weight_decay", params.weight_decay >= 0, "must be finite and 0 or more"),
        ("grad_clip_norm", params.grad_clip_norm >= 0, "must be finite and 0 or more (0: off)"),
    )
