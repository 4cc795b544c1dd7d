"""Entropy terms: `Entropy` of full or top-k distributions, `SampledEntropy` of chosen tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tinsmith.regularizers.gradients import with_gradients
from tinsmith.regularizers.reading import (
    Reduced,
    check_choice,
    check_number,
    distributions,
    positions,
)
from tinsmith.regularizers.specs import Reduction
from tinsmith.types import Datum

if TYPE_CHECKING:
    import torch

    Result = tuple[torch.Tensor, dict[str, float]]

__all__ = ["Entropy", "SampledEntropy"]

Mode = Literal["bonus", "penalty"]


@dataclass(frozen=True)
class Entropy:
    """Entropy in nats of the distribution over each position's K targets.

    Exact where these are the vocabulary, as with `Regularizer(Entropy(), 0.01,
    distribution="full")`. With the top K it is the entropy of what they hold; `renormalise` makes
    it that of the distribution among them.

    Attributes:
        mode: "bonus" raises entropy (the term is `-H`), "penalty" lowers it (`+H`).
        normalise: Divide by `log K`, so that it is between 0 and 1.
        temperature: Of the distribution `softmax(l / temperature)`; not 1 renormalises.
        renormalise: Make each position's probabilities sum to 1 first.
        reduction: "mean" or "sum" over positions.
        mask: Loss input whose non-zero entries mark the positions that count; None counts all.
    """

    name: ClassVar[str] = "entropy"
    needs_distributions: ClassVar[bool] = True
    mode: Mode = "bonus"
    normalise: bool = False
    temperature: float = 1.0
    renormalise: bool = False
    reduction: Reduced = "mean"
    mask: str | None = None

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("bonus", "penalty"))
        check_choice("reduction", self.reduction, ("sum", "mean"))
        check_number("temperature", self.temperature, low=0, is_open=True)

    @property
    def batch_reduction(self) -> Reduction:
        return self.reduction

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        distributions(logprobs, "Entropy")
        log_NK = positions(data, logprobs, self.mask)(logprobs)
        if self.renormalise or self.temperature != 1.0:
            log_NK = functions.normalised_logprobs(log_NK, self.temperature)
        entropy_N = functions.entropy(log_NK)
        if self.normalise and log_NK.shape[-1] > 1:
            entropy_N = entropy_N / math.log(log_NK.shape[-1])
        value = functions.reduce(entropy_N, self.reduction)
        metrics = {"entropy": float(entropy_N.detach().mean())}
        return (-value if self.mode == "bonus" else value), metrics


@dataclass(frozen=True)
class SampledEntropy:
    """Entropy in nats estimated from chosen tokens: `H ~ -mean(l)`.

    Unbiased where the tokens were sampled from the model that is trained (reinforcement learning);
    on other text it measures, and moves, the likelihood of that text.

    Attributes:
        mode: "bonus" raises entropy (the term is `-H`), "penalty" lowers it (`+H`).
        gradient: "score_function" is the unbiased gradient of the entropy for sampled tokens,
            `dH/dl_t = -(l_t - mean of the others) / N`. "estimator" differentiates `-mean(l)`
            itself, whose expected gradient for sampled tokens is zero.
        mask: Loss input whose non-zero entries mark the targets that count; None counts all.

    Source: Williams, "Simple statistical gradient-following algorithms", 1992; the leave-one-out
    baseline of Kool, van Hoof and Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!".
    """

    name: ClassVar[str] = "sampled_entropy"
    is_estimate: ClassVar[bool] = True
    mode: Mode = "bonus"
    gradient: Literal["score_function", "estimator"] = "score_function"
    mask: str | None = None

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("bonus", "penalty"))
        check_choice("gradient", self.gradient, ("score_function", "estimator"))

    @property
    def batch_reduction(self) -> Reduction:
        # The baseline is a mean over the whole batch; without it parts add up.
        return "whole_batch" if self.gradient == "score_function" else "mean"

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        l_N = positions(data, logprobs, self.mask)(logprobs).flatten()
        entropy = -l_N.mean()
        if self.gradient == "score_function":
            fixed_N = l_N.detach()
            count = len(fixed_N)
            centred_N = (fixed_N - fixed_N.mean()) * (count / (count - 1)) if count > 1 else fixed_N
            entropy = with_gradients(entropy, [-centred_N / count], [l_N])
        metrics = {"entropy": float(entropy.detach())}
        return (-entropy if self.mode == "bonus" else entropy), metrics
