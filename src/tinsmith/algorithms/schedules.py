"""Learning-rate schedules: the multiplier of the peak learning rate at each step.

`Constant`, `Linear` and `Cosine` are frozen dataclasses called with a step; `make_schedule` builds
one by name. Steps count from 0; the step after the last would have multiplier 0 under `Linear` and
`Cosine`, so the last step still learns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tinsmith.core.errors import ConfigError, unknown_name

ScheduleName = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True)
class _Schedule:
    """Linear warm-up, then a decay over the steps that are left.

    With `w` warm-up steps of `n`: step `s < w` has multiplier `(s + 1) / (w + 1)`, so that no step
    is spent at zero; step `w` has multiplier 1; after it the decay sees `(s - w) / (n - w)`.

    With `f` the final fraction, the decay runs from 1 to `f`: `f + (1 - f) * decay`.

    Attributes:
        num_steps: Steps of the whole run.
        num_warmup_steps: Steps before the peak.
        final_fraction: What the decay ends at, as a part of the peak.
    """

    num_steps: int
    num_warmup_steps: int = 0
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ConfigError(f"num_steps={self.num_steps}: must be 1 or more", field="num_steps")
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(
                f"final_lr_fraction={self.final_fraction}: must be 0 to 1",
                field="final_lr_fraction",
            )
        if not 0 <= self.num_warmup_steps < self.num_steps:
            raise ConfigError(
                f"warmup_steps={self.num_warmup_steps}: must be 0 or more and below the run's "
                f"{self.num_steps} steps",
                field="warmup_steps",
                hint="train longer, or warm up for fewer steps",
            )

    def __call__(self, step: int) -> float:
        """Multiplier at `step`; steps beyond the run have the multiplier of its end."""
        warmup = self.num_warmup_steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        decay = self._decay(min((step - warmup) / (self.num_steps - warmup), 1.0))
        return decay if not self.final_fraction else self._lifted(decay)

    def _lifted(self, decay: float) -> float:
        return self.final_fraction + (1.0 - self.final_fraction) * decay

    def _decay(self, fraction: float) -> float:
        """Multiplier after warm-up, `fraction` of the remaining steps being done."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(_Schedule):
    """Multiplier 1 after warm-up."""

    def _decay(self, fraction: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear(_Schedule):
    """`1 - fraction` after warm-up."""

    def _decay(self, fraction: float) -> float:
        return 1.0 - fraction


@dataclass(frozen=True)
class Cosine(_Schedule):
    """`(1 + cos(pi * fraction)) / 2` after warm-up.

    Source: Loshchilov and Hutter, "SGDR", arXiv:1608.03983, equation 5, one cycle to zero.
    """

    def _decay(self, fraction: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * fraction))


Schedule = Constant | Linear | Cosine

SCHEDULES: Mapping[str, type[Constant | Linear | Cosine]] = MappingProxyType(
    {"linear": Linear, "cosine": Cosine, "constant": Constant}
)


def make_schedule(
    name: str, num_steps: int, num_warmup_steps: int = 0, *, final_fraction: float = 0.0
) -> Schedule:
    """Build a schedule by name.

    Example:
        >>> [make_schedule("linear", 4)(step) for step in range(4)]
        [1.0, 0.75, 0.5, 0.25]

    Raises:
        UnknownNameError: No such schedule.
        ConfigError: The warm-up does not end before the run.
    """
    if name not in SCHEDULES:
        raise unknown_name("lr_schedule", name, sorted(SCHEDULES), field="lr_schedule")
    return SCHEDULES[name](num_steps, num_warmup_steps, final_fraction)
