"""Terms of the size of the logprobs: `L1`, `L2`, `ElasticNet`, `OutputMagnitude`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tinsmith.core.errors import ConfigError
from tinsmith.regularizers.reading import Reduced, check_choice, check_number, positions
from tinsmith.regularizers.specs import Reduction
from tinsmith.types import Datum

if TYPE_CHECKING:
    import torch

    Result = tuple[torch.Tensor, dict[str, float]]

__all__ = ["L1", "L2", "ElasticNet", "OutputMagnitude"]

Target = Literal["logprobs", "probs"]


@dataclass(frozen=True)
class L1:
    """`sum |x|` over the targets. Of logprobs it is the summed NLL: it pushes towards certainty.

    Attributes:
        target: `x` is the logprobs, or "probs" their exponentials.
        reduction: "sum", or "mean" over targets.
        mask: Loss input whose non-zero entries mark the targets that count; None counts all.
    """

    name: ClassVar[str] = "l1_sparsity"
    target: Target = "logprobs"
    reduction: Reduced = "sum"
    mask: str | None = None

    def __post_init__(self) -> None:
        _check(self.target, self.reduction)

    @property
    def batch_reduction(self) -> Reduction:
        return self.reduction

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        x = _selected(data, logprobs, self.mask, self.target)
        return functions.l1(x, self.reduction), {"l1_mean": float(x.detach().abs().mean())}


@dataclass(frozen=True)
class L2:
    """`sum x^2` over the targets, of outputs and not of weights.

    Attributes:
        target: `x` is the logprobs, or "probs" their exponentials.
        center: Subtracted first: a number, "mean" (which needs the whole batch), or None.
        clip: Then x is cut to `[-clip, clip]`.
        reduction: "sum", or "mean" over targets.
        mask: Loss input whose non-zero entries mark the targets that count; None counts all.
    """

    name: ClassVar[str] = "l2_outputs"
    target: Target = "logprobs"
    center: float | Literal["mean"] | None = None
    clip: float | None = None
    reduction: Reduced = "sum"
    mask: str | None = None

    def __post_init__(self) -> None:
        _check(self.target, self.reduction)
        if self.clip is not None:
            check_number("clip", self.clip, low=0, is_open=True)
        if self.center not in (None, "mean") and not (
            isinstance(self.center, (int, float)) and math.isfinite(self.center)
        ):
            raise ConfigError(f"center={self.center!r}: must be 'mean' or a number", field="center")

    @property
    def batch_reduction(self) -> Reduction:
        return "whole_batch" if self.center == "mean" else self.reduction

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        x = _selected(data, logprobs, self.mask, self.target)
        loss = functions.l2(x, self.reduction, center=self.center, clip=self.clip)
        return loss, {"l2_mean": float(x.detach().square().mean())}


@dataclass(frozen=True)
class ElasticNet:
    """`a * L1 + (1 - a) * L2` with `a = l1_ratio`; the other fields as in `L1`."""

    name: ClassVar[str] = "elastic_net"
    l1_ratio: float = 0.5
    target: Target = "logprobs"
    reduction: Reduced = "sum"
    mask: str | None = None

    def __post_init__(self) -> None:
        _check(self.target, self.reduction)
        check_number("l1_ratio", self.l1_ratio, low=0, high=1)

    @property
    def batch_reduction(self) -> Reduction:
        return self.reduction

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        x = _selected(data, logprobs, self.mask, self.target)
        return functions.elastic_net(x, self.l1_ratio, self.reduction), {}


@dataclass(frozen=True)
class OutputMagnitude:
    """`(root-mean-square(x) - target_norm)^2`, a cheap hold on the size of the outputs.

    Attributes:
        target_norm: Size to hold.
        reduction: "mean", or "sum" for the root of the sum of squares. Neither adds up over parts
            of a batch.
        mask: Loss input whose non-zero entries mark the targets that count; None counts all.
    """

    name: ClassVar[str] = "output_magnitude"
    batch_reduction: ClassVar[Reduction] = "whole_batch"
    target_norm: float = 1.0
    reduction: Reduced = "mean"
    mask: str | None = None

    def __post_init__(self) -> None:
        _check("logprobs", self.reduction)
        check_number("target_norm", self.target_norm, low=0)

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        x = _selected(data, logprobs, self.mask, "logprobs")
        return functions.output_magnitude(x, self.target_norm, self.reduction), {}


def _check(target: str, reduction: str) -> None:
    check_choice("target", target, ("logprobs", "probs"))
    check_choice("reduction", reduction, ("sum", "mean"))


def _selected(
    data: list[Datum], logprobs: Sequence[torch.Tensor], mask: str | None, target: Target
) -> torch.Tensor:
    x = positions(data, logprobs, mask)(logprobs)
    return x.exp() if target == "probs" else x
