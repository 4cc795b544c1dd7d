"""How a composed loss is computed: `CustomLossOptions`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal

from tinsmith.core.errors import ConfigError
from tinsmith.regularizers.events import Observer
from tinsmith.regularizers.specs import Reduction, Regularizer

__all__ = ["CustomLossOptions"]


@dataclass(frozen=True)
class CustomLossOptions:
    """Settings of one call of `forward_backward_custom`.

    Attributes:
        execution: "parallel" evaluates the terms in threads at once, "sequential" one by one;
            results are the same.
        max_workers: Terms at once; None is as many as processors and four more, 32 at most.
        share: Part of an optimizer step's targets that this call holds, above 0 and at most 1. The
            service adds up the gradients of all calls before an optimizer step. With `share` each
            call's fraction of the targets, terms and losses that are means are multiplied by it and
            sums are not, so that the calls together equal one call with everything. With 1 the
            calls are simply added.
        base_reduction: Whether the base loss is a "sum" or a "mean"; needed when `share` is not 1.
        epoch: Epochs done, for schedules that go by epochs.
        observer: Is told of every start, stop and exception.

    Raises:
        ConfigError: a field is not allowed.
    """

    execution: Literal["parallel", "sequential"] = "parallel"
    max_workers: int | None = None
    share: float = 1.0
    base_reduction: Reduction | None = None
    epoch: float | None = None
    observer: Observer | None = None

    def __post_init__(self) -> None:
        if self.execution not in ("parallel", "sequential"):
            raise _refused("execution", self.execution, "'parallel' or 'sequential'")
        if self.max_workers is not None and self.max_workers < 1:
            raise _refused("max_workers", self.max_workers, "1 or more")
        if not 0 < self.share <= 1:
            raise _refused("share", self.share, "above 0 and at most 1")
        if self.base_reduction not in (None, "sum", "mean", "whole_batch"):
            raise _refused("base_reduction", self.base_reduction, "'sum', 'mean' or 'whole_batch'")
        if self.epoch is not None and not (math.isfinite(self.epoch) and self.epoch >= 0):
            raise _refused("epoch", self.epoch, "finite and 0 or more")

    @property
    def num_workers(self) -> int:
        """Terms that run at once."""
        if self.execution == "sequential":
            return 1
        return self.max_workers or min(32, (os.cpu_count() or 1) + 4)

    def check_shares(self, terms: tuple[Regularizer, ...], *, has_base: bool) -> None:
        """Refuse a part of a batch where something needs all of it.

        Raises:
            ConfigError: naming what does.
        """
        if self.share == 1:
            return
        for term in terms:
            if term.enabled and term.reduction == "whole_batch":
                raise ConfigError(
                    f"regularizers[{term.name!r}]: needs the whole batch, and share={self.share}",
                    field="share",
                    hint="send the batch in one call, or say its reduction if it is a sum or mean",
                )
        if has_base and self.base_reduction not in ("sum", "mean"):
            raise ConfigError(
                f"base_reduction={self.base_reduction!r}: must be 'sum' or 'mean' when "
                f"share={self.share}",
                field="base_reduction",
                hint="say which of the two loss_fn returns",
            )

    def scale_of(self, reduction: Reduction | None) -> float:
        """What a value of this call is multiplied by."""
        return self.share if reduction == "mean" else 1.0


def _refused(field: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"{field}={value!r}: must be {allowed}", field=field)
