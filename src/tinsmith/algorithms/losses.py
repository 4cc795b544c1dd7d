"""The training losses, as pure functions of target logprobs.

`LOSSES` maps a name to its `LossSpec`: which inputs a datum must carry, which settings it takes,
and `fn(logprobs, inputs, config)`, which returns the loss of every token (summed by the caller,
never averaged) and diagnostics of every token (summed too). All are separable over tokens, so a
caller may evaluate them on any slice. What a loss accepts, and the checks that turn what a user
sent into what `fn` takes, need no torch and are in `loss_inputs`.

Source: the loss table of the Tinker documentation. PPO clips the ratio itself (bounds, not
epsilons; Schulman et al. 2017, eq. 7, per token); CISPO as in MiniMax-M1 (2025), eq. 4, summed;
DRO as in Richemond et al. 2024, with the caller's advantages as soft rewards.

Shapes: N tokens of a datum, K targets per token. lp: logprobs of the learner, q: of the sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.algorithms.loss_inputs import LOSS_INPUTS, LossInputs
from tinsmith.core.errors import unknown_name

__all__ = [
    "LOSSES",
    "LossFn",
    "LossSpec",
    "cispo",
    "cross_entropy",
    "dro",
    "find_loss",
    "importance_sampling",
    "ppo",
]

TokenLoss = tuple[Tensor, dict[str, Tensor]]
LossFn = Callable[[Tensor, Mapping[str, Tensor], Mapping[str, float]], TokenLoss]
"""(logprobs, inputs, config) to (loss of every token, diagnostics of every token)."""


@dataclass(frozen=True, kw_only=True)
class LossSpec(LossInputs):
    """One loss: what it accepts, and its function."""

    fn: LossFn


def cross_entropy(
    logprobs: Tensor, inputs: Mapping[str, Tensor], config: Mapping[str, float]
) -> TokenLoss:
    """-w * lp. With (N, K) targets and a teacher's probabilities as weights: distillation.

    Weights may be fractional or negative and are taken as they are.

    Example:
        >>> import torch
        >>> loss, _ = cross_entropy(
        ...     torch.tensor([-1.0, -2.0]), {"weights": torch.tensor([1.0, 0.5])}, {}
        ... )
        >>> loss.sum().item()
        2.0
    """
    del config
    return -inputs["weights"] * logprobs, {}


def importance_sampling(
    logprobs: Tensor, inputs: Mapping[str, Tensor], config: Mapping[str, float]
) -> TokenLoss:
    """-r * A with r = exp(lp - q); the gradient flows through r."""
    del config
    advantages = inputs["advantages"]
    ratio = _ratio(logprobs, inputs)
    return -ratio * advantages, {"kl_k1": _kl_k1(logprobs, inputs)}


def ppo(logprobs: Tensor, inputs: Mapping[str, Tensor], config: Mapping[str, float]) -> TokenLoss:
    """-min(r * A, clamp(r, low, high) * A), token by token; low and high bound the ratio itself."""
    advantages = inputs["advantages"]
    ratio = _ratio(logprobs, inputs)
    clipped_ratio = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    plain, clipped = ratio * advantages, clipped_ratio * advantages
    diagnostics = {
        "clipped_tokens": (clipped < plain).to(logprobs.dtype),
        "kl_k1": _kl_k1(logprobs, inputs),
    }
    return -torch.minimum(plain, clipped), diagnostics


def cispo(logprobs: Tensor, inputs: Mapping[str, Tensor], config: Mapping[str, float]) -> TokenLoss:
    """-stop_gradient(clamp(r, low, high)) * lp * A: clipped tokens keep a gradient."""
    advantages = inputs["advantages"]
    ratio = _ratio(logprobs, inputs).detach()
    weight = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    diagnostics = {
        "clipped_tokens": ((weight != ratio) & (advantages != 0)).to(logprobs.dtype),
        "kl_k1": _kl_k1(logprobs, inputs),
    }
    return -weight * logprobs * advantages, diagnostics


def dro(logprobs: Tensor, inputs: Mapping[str, Tensor], config: Mapping[str, float]) -> TokenLoss:
    """-(lp * A - beta / 2 * (lp - q)^2). The quadratic term acts on tokens with A = 0 as well."""
    log_ratio = logprobs - inputs["logprobs"]
    loss = -(logprobs * inputs["advantages"] - 0.5 * config["beta"] * log_ratio.square())
    return loss, {"kl_k1": _kl_k1(logprobs, inputs)}


def _ratio(logprobs: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """exp(lp - q), and 1 where the advantage is 0, so that a masked token can never overflow."""
    log_ratio = logprobs - inputs["logprobs"]
    return torch.where(inputs["advantages"] != 0, log_ratio, torch.zeros_like(log_ratio)).exp()


def _kl_k1(logprobs: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Gap q - lp where the advantage is not 0: Schulman's k1 estimate of KL(sampler || learner)."""
    gap = inputs["logprobs"] - logprobs.detach()
    return torch.where(inputs["advantages"] != 0, gap, torch.zeros_like(gap))


LOSSES: dict[str, LossSpec] = {
    name: LossSpec(**vars(LOSS_INPUTS[name]), fn=fn)
    for name, fn in (
        ("cross_entropy", cross_entropy),
        ("importance_sampling", importance_sampling),
        ("ppo", ppo),
        ("cispo", cispo),
        ("dro", dro),
    )
}


def find_loss(name: str) -> LossSpec:
    """The loss of that name.

    Raises:
        UnknownNameError: there is none; offers the nearest.
    """
    spec = LOSSES.get(name)
    if spec is None:
        raise unknown_name("loss_fn", name, sorted(LOSSES), field="loss_fn")
    return spec
