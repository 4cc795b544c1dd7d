"""The training losses, as pure functions of target logprobs.

`LOSSES` maps a name to its `LossSpec`: which inputs a datum must carry, which settings it takes,
and `fn(logprobs, inputs, config)`, which returns the loss of every token (summed by the caller,
never averaged) and diagnostics of every token (summed too). Losses that are `separable` over tokens
may be evaluated on any slice; the others read a whole datum at a time. What a loss accepts, and the
checks that turn what a user sent into what `fn` takes, need no torch and are in `loss_inputs`.

Source: the loss table of the Tinker documentation. PPO clips the ratio itself (bounds, not
epsilons; Schulman et al. 2017, eq. 7, per token); CISPO as in MiniMax-M1 (2025), eq. 4, summed;
DRO as in Richemond et al. 2024, with the caller's advantages as soft rewards; GSPO as in Zheng et
al. 2025 (arXiv:2507.18071), section 4.3, the token variant, with bounds on the ratio itself.

Shapes: N tokens of a datum, K targets per token. lp: logprobs of the learner, q: of the sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.algorithms.loss_inputs import LOSS_INPUTS, LossInputs, find_loss_inputs

__all__ = [
    "LOSSES",
    "LossFn",
    "LossSpec",
    "cispo",
    "cross_entropy",
    "dro",
    "find_loss",
    "gspo",
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
    separable: bool = True
    """Whether a token's loss depends on nothing but the token, so that any slice will do. Where
    not, `fn` is called with one whole datum at a time, in the shapes that the user sent."""


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


def gspo(logprobs: Tensor, inputs: Mapping[str, Tensor], config: Mapping[str, float]) -> TokenLoss:
    """-min(s * A, clamp(s, low, high) * A) with one ratio s for the whole datum.

    s is the geometric mean of the ratios of the tokens that `sequence_ratio_mask` marks. Every
    token carries its value, with the gradient of its own logprob:
    r_t = s * exp(lp_t - stop_gradient(lp_t)).
    """
    advantages = inputs["advantages"]
    marked = inputs["sequence_ratio_mask"] != 0
    log_ratio = (logprobs.detach() - inputs["logprobs"])[marked].mean()
    exponent = log_ratio + logprobs - logprobs.detach()
    # A token without advantage has ratio 1, so that infinity times 0 cannot arise.
    ratio = torch.where(advantages != 0, exponent, torch.zeros_like(exponent)).exp()
    clipped_ratio = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    plain, clipped = ratio * advantages, clipped_ratio * advantages
    diagnostics = {
        "clipped_tokens": (clipped < plain).to(logprobs.dtype),
        "kl_k1": _kl_k1(logprobs, inputs),
    }
    return -torch.minimum(plain, clipped), diagnostics


def _ratio(logprobs: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """exp(lp - q), and 1 where the advantage is 0, so that a masked token can never overflow."""
    log_ratio = logprobs - inputs["logprobs"]
    return torch.where(inputs["advantages"] != 0, log_ratio, torch.zeros_like(log_ratio)).exp()


def _kl_k1(logprobs: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Gap q - lp where the advantage is not 0: Schulman's k1 estimate of KL(sampler || learner)."""
    gap = inputs["logprobs"] - logprobs.detach()
    return torch.where(inputs["advantages"] != 0, gap, torch.zeros_like(gap))


LOSSES: dict[str, LossSpec] = {
    name: LossSpec(**vars(LOSS_INPUTS[name]), fn=fn, separable=separable)
    for name, fn, separable in (
        ("cross_entropy", cross_entropy, True),
        ("importance_sampling", importance_sampling, True),
        ("ppo", ppo, True),
        ("cispo", cispo, True),
        ("dro", dro, True),
        ("gspo", gspo, False),
    )
}


def find_loss(name: str) -> LossSpec:
    """The loss of that name.

    Raises:
        UnknownNameError: there is none; offers the nearest.
        ConfigError: the protocol has a loss of that name, and it cannot be computed here.
    """
    return LOSSES[find_loss_inputs(name).name]
