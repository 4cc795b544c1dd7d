"""Terms that hold the model near a reference.

`KL` and `JensenShannon` compare distributions, `KLEstimate` chosen tokens, `Consistency` outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tinsmith.regularizers.gradients import with_gradients
from tinsmith.regularizers.reading import (
    Reduced,
    Reference,
    check_choice,
    distributions,
    field_of,
    positions,
    reference_logprobs,
)
from tinsmith.regularizers.specs import Reduction
from tinsmith.types import Datum

if TYPE_CHECKING:
    import torch

    Result = tuple[torch.Tensor, dict[str, float]]

__all__ = ["KL", "Consistency", "JensenShannon", "KLEstimate"]


@dataclass(frozen=True)
class KL:
    """KL divergence in nats of the distributions over each position's K targets.

    The targets are the datum's own, or with `Regularizer(KL(), 0.1, distribution=...)` the whole
    vocabulary or the K likeliest tokens. Of K tokens it is their part of the sum, which may be
    below 0 where they are few.

    Attributes:
        reference: Loss input with the reference logprobs of each datum, or a function of the
            datums that gives them, such as a `PolicyReference`; the shape is that of the targets,
            or the whole vocabulary for the K likeliest tokens. They are constants.
        direction: "forward" is `KL(model, reference)`, "reverse" is `KL(reference, model)`,
            "symmetric" half of their sum.
        reduction: "mean" or "sum" over positions.
        mask: Loss input whose non-zero entries mark the positions that count; None counts all.
    """

    name: ClassVar[str] = "kl"
    needs_distributions: ClassVar[bool] = True
    reference: Reference = "reference_logprobs"
    direction: Literal["forward", "reverse", "symmetric"] = "forward"
    reduction: Reduced = "mean"
    mask: str | None = None

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, ("forward", "reverse", "symmetric"))
        check_choice("reduction", self.reduction, ("sum", "mean"))

    @property
    def batch_reduction(self) -> Reduction:
        return self.reduction

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        distributions(logprobs, "KL")
        select = positions(data, logprobs, self.mask)
        model_NK = select(logprobs)
        reference_NK = select(reference_logprobs(self.reference, data, logprobs))
        if self.direction == "symmetric":
            kl_N = functions.symmetric_kl(model_NK, reference_NK)
        elif self.direction == "reverse":
            kl_N = functions.kl_divergence(reference_NK, model_NK)
        else:
            kl_N = functions.kl_divergence(model_NK, reference_NK)
        return functions.reduce(kl_N, self.reduction), _spread(kl_N, "kl")


@dataclass(frozen=True)
class KLEstimate:
    """KL divergence in nats estimated from chosen tokens, with `d = l - reference` at each.

    For tokens sampled from the model it estimates `KL(model, reference)`; `k1 = d` is unbiased and
    noisy, `k2 = d^2 / 2` biased and calm, `k3 = exp(-d) - 1 + d` unbiased, calm and never negative.

    Attributes:
        reference: Loss input with the reference logprobs of each datum, or a function of the
            datums that gives them; the shape is that of the targets. They are constants.
        estimator: Of the value: "k1", "k2" or "k3".
        gradient: "score_function" is the unbiased gradient of the divergence for sampled tokens,
            `d / N` at each, for every estimator. "estimator" differentiates the estimator itself:
            right for k2, zero in expectation for k1, that of the other direction for k3.
        reduction: "mean" or "sum" over targets.
        mask: Loss input whose non-zero entries mark the targets that count; None counts all.

    Source: Schulman, "Approximating KL Divergence", 2020; gradients: Tang and Munos, "On a few
    pitfalls in KL divergence gradient estimation for RL", arXiv:2506.09477.
    """

    name: ClassVar[str] = "kl_estimate"
    is_estimate: ClassVar[bool] = True
    reference: Reference = "reference_logprobs"
    estimator: Literal["k1", "k2", "k3"] = "k3"
    gradient: Literal["score_function", "estimator"] = "score_function"
    reduction: Reduced = "mean"
    mask: str | None = None

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, ("k1", "k2", "k3"))
        check_choice("gradient", self.gradient, ("score_function", "estimator"))
        check_choice("reduction", self.reduction, ("sum", "mean"))

    @property
    def batch_reduction(self) -> Reduction:
        return self.reduction

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        select = positions(data, logprobs, self.mask)
        l_N = select(logprobs).flatten()
        d_N = l_N - select(reference_logprobs(self.reference, data, logprobs)).flatten()
        if self.estimator == "k1":
            kl_N = d_N
        elif self.estimator == "k2":
            kl_N = 0.5 * d_N.square()
        else:
            kl_N = (-d_N).expm1() + d_N
        value = functions.reduce(kl_N, self.reduction)
        if self.gradient == "score_function":
            count = len(d_N) if self.reduction == "mean" else 1
            value = with_gradients(value, [d_N.detach() / count], [l_N])
        return value, _spread(kl_N, self.estimator)


@dataclass(frozen=True)
class JensenShannon:
    """Jensen-Shannon divergence in nats, between 0 and ln 2; the fields as in `KL`."""

    name: ClassVar[str] = "jensen_shannon"
    needs_distributions: ClassVar[bool] = True
    reference: Reference = "reference_logprobs"
    reduction: Reduced = "mean"
    mask: str | None = None

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, ("sum", "mean"))

    @property
    def batch_reduction(self) -> Reduction:
        return self.reduction

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        distributions(logprobs, "JensenShannon")
        select = positions(data, logprobs, self.mask)
        reference_NK = select(reference_logprobs(self.reference, data, logprobs))
        js_N = functions.js_divergence(select(logprobs), reference_NK)
        return functions.reduce(js_N, self.reduction), _spread(js_N, "js")


@dataclass(frozen=True)
class Consistency:
    """Distance of the logprobs from those of a twin, such as the same text before a perturbation.

    Attributes:
        pair_field: Loss input with the twin's logprobs, in the shape of the targets; constants.
        metric: "mse", "l1", "cosine" (`1 - cos` of the whole batch flattened), or "kl" (half of
            both directions, of distributions over several targets a position, without guards).
        reduction: "mean" or "sum" over values; "cosine" has one value.
        mask: Loss input whose non-zero entries mark the positions that count; None counts all.
    """

    name: ClassVar[str] = "consistency"
    pair_field: str = "original_logprobs"
    metric: Literal["mse", "l1", "cosine", "kl"] = "mse"
    reduction: Reduced = "mean"
    mask: str | None = None

    def __post_init__(self) -> None:
        check_choice("metric", self.metric, ("mse", "l1", "cosine", "kl"))
        check_choice("reduction", self.reduction, ("sum", "mean"))

    @property
    def batch_reduction(self) -> Reduction:
        return "whole_batch" if self.metric == "cosine" else self.reduction

    @property
    def needs_distributions(self) -> bool:
        return self.metric == "kl"

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        if self.metric == "kl":
            distributions(logprobs, "Consistency(metric='kl')")
        select = positions(data, logprobs, self.mask)
        ours, twin = select(logprobs), select(field_of(data, logprobs, self.pair_field))
        if self.metric == "cosine":
            return functions.cosine_distance(ours, twin), {}
        if self.metric == "kl":
            # sum p (lp - lq) and sum q (lq - lp), halved: one sum of (p - q) (lp - lq).
            values = 0.5 * ((ours.exp() - twin.exp()) * (ours - twin)).sum(-1)
        else:
            values = (ours - twin).square() if self.metric == "mse" else (ours - twin).abs()
        return functions.reduce(values, self.reduction), {}


def _spread(values: torch.Tensor, name: str) -> dict[str, float]:
    fixed = values.detach()
    return {
        f"{name}_mean": float(fixed.mean()),
        f"{name}_max": float(fixed.max()),
        f"{name}_min": float(fixed.min()),
    }
