"""Terms of the loss's slope and of the outputs' directions: `GradientPenalty`, `Orthogonality`."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tinsmith.core.errors import ConfigError, DataError
from tinsmith.regularizers.reading import check_choice, check_number, field_of
from tinsmith.regularizers.results import checked_result
from tinsmith.regularizers.specs import Reduction
from tinsmith.types import Datum

if TYPE_CHECKING:
    import torch

    Result = tuple[torch.Tensor, dict[str, float]]

__all__ = ["GradientPenalty", "Orthogonality"]


@dataclass(frozen=True)
class GradientPenalty:
    """`(||grad f|| - target_norm)^2` of a loss `f`, by the logprobs.

    Of an `f` that is linear in the logprobs, such as a mean NLL, it is a constant: it trains
    nothing and its gradient norm is None.

    Attributes:
        loss_fn: `f(data, logprobs) -> (loss, metrics)`, differentiable twice.
        mode: "output" takes the gradient at the logprobs; "interpolated" at
            `e * logprobs + (1 - e) * reference`.
        target_norm: Slope to hold.
        reference_field: Loss input with the reference of each datum, for "interpolated".
        seed: `e` is uniform on [0, 1) and depends on it and on the batch's targets alone: value
            and gradient belong to one point, and a resumed run draws the same.
    """

    name: ClassVar[str] = "gradient_penalty"
    batch_reduction: ClassVar[Reduction] = "whole_batch"
    loss_fn: Callable[[list[Datum], list[Any]], Any]
    mode: Literal["output", "interpolated"] = "output"
    target_norm: float = 1.0
    reference_field: str = "reference_logprobs"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("output", "interpolated"))
        check_number("target_norm", self.target_norm, low=0)
        check_number("seed", self.seed, low=0)
        if not callable(self.loss_fn) or inspect.iscoroutinefunction(self.loss_fn):
            raise ConfigError(
                f"loss_fn: a {type(self.loss_fn).__name__}, must be a plain function of "
                "(data, logprobs)",
                field="loss_fn",
            )

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        import torch

        points = list(logprobs)
        if self.mode == "interpolated":
            e = self._mixture(data)
            references = field_of(data, logprobs, self.reference_field)
            points = [e * x + (1.0 - e) * r for x, r in zip(logprobs, references, strict=True)]
        value, _ = checked_result(self.loss_fn(data, points))
        if not value.requires_grad:
            raise DataError("loss_fn: its loss does not depend on the logprobs", field="loss_fn")
        found = torch.autograd.grad(value, points, create_graph=True, allow_unused=True)
        gradient = torch.cat([g.flatten() for g in found if g is not None])
        norm = torch.linalg.vector_norm(gradient)
        return (norm - self.target_norm).square(), {"norm": float(norm.detach())}

    def _mixture(self, data: list[Datum]) -> float:
        checksum = 0
        for datum in data:
            tokens = datum.loss_fn_inputs["target_tokens"].to_numpy()
            checksum = zlib.crc32(np.ascontiguousarray(tokens).tobytes(), checksum)
        return float(np.random.default_rng([self.seed, checksum]).random())


@dataclass(frozen=True)
class Orthogonality:
    """How far the outputs of different rows are from orthogonal.

    Attributes:
        mode: "soft", "hard", "spectral" or "trace"; see `functions.orthogonality`.
        axis: What a row is. "rows": a position's K targets, over all datums; with one target a
            position, a datum's targets, which must be as many in each. "sequence": a position over
            all datums, which must be of one length. "vocabulary": one of the K targets over all
            positions.
        normalise: Give each row length 1 first.
    """

    name: ClassVar[str] = "orthogonality"
    batch_reduction: ClassVar[Reduction] = "whole_batch"
    mode: Literal["soft", "hard", "spectral", "trace"] = "soft"
    axis: Literal["rows", "sequence", "vocabulary"] = "rows"
    normalise: bool = True

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("soft", "hard", "spectral", "trace"))
        check_choice("axis", self.axis, ("rows", "sequence", "vocabulary"))

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Result:
        from tinsmith.regularizers import functions

        rows = self._rows(logprobs)
        if len(rows) < 2:
            raise DataError(
                f"orthogonality: axis={self.axis!r} makes {len(rows)} row, and two are needed",
                field="axis",
            )
        return functions.orthogonality(rows, self.mode, normalise=self.normalise), {}

    def _rows(self, logprobs: list[torch.Tensor]) -> torch.Tensor:
        import torch

        is_wide = all(tensor.ndim == 2 for tensor in logprobs)
        if self.axis == "vocabulary":
            if not is_wide:
                raise DataError(
                    "orthogonality: axis='vocabulary' needs several targets a position",
                    field="axis",
                )
            return torch.cat(logprobs).T
        if self.axis == "rows" and is_wide:
            return torch.cat(logprobs)
        lengths = sorted({len(tensor) for tensor in logprobs})
        if len(lengths) > 1:
            raise DataError(
                f"orthogonality: axis={self.axis!r}: the datums have {lengths} targets, and must "
                "have as many each",
                field="axis",
                hint="use datums of one length, or several targets a position with axis='rows'",
            )
        batch = torch.stack(logprobs)  # (B, T) or (B, T, K)
        if self.axis == "rows":
            return batch
        return batch.transpose(0, 1).flatten(1)
