"""The training losses, as pure functions of target logprobs, and the checks of their inputs.

`LOSSES` maps a name to its `LossSpec`: which inputs a datum must carry, which settings it takes,
and `fn(logprobs, inputs, config)`, which returns the loss of every token (summed by the caller,
never averaged) and diagnostics of every token (summed too). All are separable over tokens, so a
caller may evaluate them on any slice. `check_loss_config` and `check_loss_inputs` turn what a user
sent into what `fn` takes, or say which field of which datum is wrong.

Source: the loss table of the Tinker documentation. PPO clips the ratio itself (bounds, not
epsilons; Schulman et al. 2017, eq. 7, per token); CISPO as in MiniMax-M1 (2025), eq. 4, summed;
DRO as in Richemond et al. 2024, with the caller's advantages as soft rewards.

Shapes: N tokens of a datum, K targets per token. lp: logprobs of the learner, q: of the sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tinsmith.core.errors import ConfigError, DataError, unknown_name

__all__ = [
    "LOSSES",
    "LossFn",
    "LossSpec",
    "check_loss_config",
    "check_loss_inputs",
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


@dataclass(frozen=True)
class LossSpec:
    """One loss: its function and what it accepts."""

    name: str
    fn: LossFn
    required_inputs: tuple[str, ...]
    """Keys besides `target_tokens`; each has the shape of `target_tokens`."""
    optional_inputs: tuple[str, ...] = ()
    config_defaults: Mapping[str, float] = field(default_factory=dict)
    signal: str = "advantages"
    """The input whose non-zero entries are counted as `loss_tokens`."""
    several_targets: bool = False
    """Whether `target_tokens` may be (N, K)."""


def cross_entropy(
    logprobs: Float[Tensor, "..."],
    inputs: Mapping[str, Tensor],
    config: Mapping[str, float],
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
    logprobs: Float[Tensor, "..."],
    inputs: Mapping[str, Tensor],
    config: Mapping[str, float],
) -> TokenLoss:
    """-r * A with r = exp(lp - q); the gradient flows through r."""
    del config
    advantages = inputs["advantages"]
    ratio = _ratio(logprobs, inputs)
    return -ratio * advantages, {"kl_k1": _kl_k1(logprobs, inputs)}


def ppo(
    logprobs: Float[Tensor, "..."],
    inputs: Mapping[str, Tensor],
    config: Mapping[str, float],
) -> TokenLoss:
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


def cispo(
    logprobs: Float[Tensor, "..."],
    inputs: Mapping[str, Tensor],
    config: Mapping[str, float],
) -> TokenLoss:
    """-stop_gradient(clamp(r, low, high)) * lp * A: clipped tokens keep a gradient."""
    advantages = inputs["advantages"]
    ratio = _ratio(logprobs, inputs).detach()
    weight = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    diagnostics = {
        "clipped_tokens": ((weight != ratio) & (advantages != 0)).to(logprobs.dtype),
        "kl_k1": _kl_k1(logprobs, inputs),
    }
    return -weight * logprobs * advantages, diagnostics


def dro(
    logprobs: Float[Tensor, "..."],
    inputs: Mapping[str, Tensor],
    config: Mapping[str, float],
) -> TokenLoss:
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


_RL_INPUTS = ("logprobs", "advantages")

LOSSES: dict[str, LossSpec] = {
    spec.name: spec
    for spec in (
        LossSpec(
            "cross_entropy", cross_entropy, ("weights",), signal="weights", several_targets=True
        ),
        LossSpec("importance_sampling", importance_sampling, _RL_INPUTS),
        LossSpec(
            "ppo",
            ppo,
            _RL_INPUTS,
            config_defaults={"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
        ),
        LossSpec(
            "cispo",
            cispo,
            _RL_INPUTS,
            config_defaults={"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
        ),
        # Tinker states no default for beta; 0.05 is the value of its example.
        LossSpec("dro", dro, _RL_INPUTS, config_defaults={"beta": 0.05}),
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


def check_loss_config(spec: LossSpec, config: Mapping[str, float | str] | None) -> dict[str, float]:
    """The loss's settings: defaults overlaid with `config`.

    Raises:
        ConfigError: a key that the loss does not take, or a value that is no sensible number.
    """
    resolved = dict(spec.config_defaults)
    for key, value in (config or {}).items():
        if key not in spec.config_defaults:
            allowed = ", ".join(spec.config_defaults) or "none"
            raise ConfigError(
                f"loss_fn_config.{key}: {spec.name} takes no such setting (it takes: {allowed})",
                field=f"loss_fn_config.{key}",
            )
        if isinstance(value, str) or not math.isfinite(value) or value < 0:
            raise ConfigError(
                f"loss_fn_config.{key}={value!r}: must be a finite number, 0 or more",
                field=f"loss_fn_config.{key}",
            )
        resolved[key] = float(value)
    low, high = resolved.get("clip_low_threshold"), resolved.get("clip_high_threshold")
    if low is not None and high is not None and low > high:
        raise ConfigError(
            f"loss_fn_config.clip_low_threshold={low:g}: must not exceed "
            f"clip_high_threshold={high:g} (both bound the probability ratio itself)",
            field="loss_fn_config.clip_low_threshold",
        )
    return resolved


def check_loss_inputs(
    spec: LossSpec,
    inputs: Mapping[str, np.ndarray],
    *,
    num_tokens: int,
    vocab_size: int,
    datum_index: int,
) -> dict[str, np.ndarray]:
    """A datum's loss inputs, each in its dtype and all in the shape of `target_tokens`.

    Args:
        spec: the loss.
        inputs: arrays by key, as the user sent them.
        num_tokens: length of the datum's model input.
        vocab_size: targets must lie in [0, vocab_size).
        datum_index: position of the datum in its request, for messages.

    Raises:
        DataError: a missing or unexpected key, a wrong shape, a token outside the vocabulary, or a
            value that is not finite.
    """
    wanted = ("target_tokens", *spec.required_inputs)
    for key in wanted:
        if key not in inputs:
            raise _bad_input(datum_index, key, f"missing; {spec.name} needs {', '.join(wanted)}")
    for key in inputs:
        if key not in wanted and key not in spec.optional_inputs:
            raise _bad_input(
                datum_index, key, f"unexpected; {spec.name} takes {', '.join(wanted)} only"
            )
    targets = inputs["target_tokens"]
    _check_targets(spec, targets, num_tokens, vocab_size, datum_index)
    checked = {"target_tokens": targets.astype(np.int64, copy=False)}
    for key in inputs.keys() - {"target_tokens"}:
        values = inputs[key]
        if values.shape != targets.shape:
            raise _bad_input(
                datum_index,
                key,
                f"shape {values.shape} must equal target_tokens' shape {targets.shape}",
            )
        values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise _bad_input(
                datum_index, key, f"value {values[where]} at position {where[0]} is not finite"
            )
        checked[key] = values
    return checked


def _check_targets(
    spec: LossSpec, targets: np.ndarray, num_tokens: int, vocab_size: int, datum_index: int
) -> None:
    name = "target_tokens"
    if targets.dtype.kind not in "iu":
        raise _bad_input(datum_index, name, f"dtype {targets.dtype} must be an integer type")
    if targets.ndim != 1 and not (targets.ndim == 2 and spec.several_targets):
        allowed = "(N,) or (N, K)" if spec.several_targets else "(N,)"
        raise _bad_input(
            datum_index, name, f"shape {targets.shape} must be {allowed} for {spec.name}"
        )
    if targets.shape[0] != num_tokens or 0 in targets.shape:
        raise _bad_input(
            datum_index,
            name,
            f"length {targets.shape[0]} must equal the model input's length {num_tokens}"
            if targets.shape[0] != num_tokens
            else "holds no targets",
        )
    outside = (targets < 0) | (targets >= vocab_size)
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        raise _bad_input(
            datum_index,
            name,
            f"token {targets[where]} at position {where[0]} is outside the vocabulary of "
            f"{vocab_size}",
        )


def _bad_input(datum_index: int, key: str, problem: str) -> DataError:
    name = f"loss_fn_inputs.{key}"
    return DataError(f"{name}: {problem}", field=name, datum_index=datum_index)
