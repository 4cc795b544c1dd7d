"""Schedules of a term's weight: the factor that it is multiplied by at a step or epoch.

Frozen dataclasses called with the time, in optimizer steps done (0 before the first) or in epochs
as `by` says; times before 0 and after the end hold the end values. The learning-rate schedules of
`tinsmith.algorithms` are called with a step, too, and fit as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from tinsmith.core.errors import ConfigError, unknown_name

__all__ = [
    "SCHEDULES",
    "ConstantWeight",
    "CosineWeight",
    "ExponentialWeight",
    "LinearWeight",
    "PiecewiseWeight",
    "WarmUpWeight",
    "WeightSchedule",
    "make_weight_schedule",
    "scheduled_factor",
]

TimeUnit = Literal["step", "epoch"]


class WeightSchedule(Protocol):
    """A factor by time. An attribute `by` may say "step" (the default) or "epoch"."""

    def __call__(self, time: Any, /) -> float:  # Any: an int for schedules that count steps
        """The factor at `time`."""
        ...


@dataclass(frozen=True)
class ConstantWeight:
    """Factor `value` at all times."""

    kind: ClassVar[str] = "constant"
    value: float = 1.0
    by: TimeUnit = "step"

    def __post_init__(self) -> None:
        _check_factors(self.kind, {"value": self.value}, self.by)

    def __call__(self, time: float) -> float:
        return self.value


@dataclass(frozen=True)
class _FromTo:
    """From `start` to `stop` over `over` steps or epochs."""

    kind: ClassVar[str]
    over: float
    start: float = 1.0
    stop: float = 0.0
    by: TimeUnit = "step"

    def __post_init__(self) -> None:
        _check_factors(self.kind, {"start": self.start, "stop": self.stop}, self.by)
        _check_over(self.kind, self.over)


@dataclass(frozen=True)
class LinearWeight(_FromTo):
    """From `start` to `stop` in a straight line over `over` steps or epochs."""

    kind: ClassVar[str] = "linear"

    def __call__(self, time: float) -> float:
        return self.start + (self.stop - self.start) * _progress(time, self.over)


@dataclass(frozen=True)
class CosineWeight(_FromTo):
    """From `start` to `stop` along half a cosine: slow at both ends."""

    kind: ClassVar[str] = "cosine"

    def __call__(self, time: float) -> float:
        left = 0.5 * (1.0 + math.cos(math.pi * _progress(time, self.over)))
        return self.stop + (self.start - self.stop) * left


@dataclass(frozen=True)
class WarmUpWeight:
    """From 0 to 1 over `over` steps or epochs, then 1."""

    kind: ClassVar[str] = "warm_up"
    over: float
    by: TimeUnit = "step"

    def __post_init__(self) -> None:
        _check_factors(self.kind, {}, self.by)
        _check_over(self.kind, self.over)

    def __call__(self, time: float) -> float:
        return _progress(time, self.over)


@dataclass(frozen=True)
class ExponentialWeight:
    """`start * rate ** time`, never below `floor`."""

    kind: ClassVar[str] = "exponential"
    rate: float
    start: float = 1.0
    floor: float = 0.0
    by: TimeUnit = "step"

    def __post_init__(self) -> None:
        _check_factors(self.kind, {"start": self.start, "floor": self.floor}, self.by)
        if not 0 < self.rate <= 1:
            raise _refused(self.kind, "rate", self.rate, "above 0 and at most 1")

    def __call__(self, time: float) -> float:
        return max(self.start * self.rate ** max(time, 0.0), self.floor)


@dataclass(frozen=True)
class PiecewiseWeight:
    """Straight lines between the points `(time, factor)`."""

    kind: ClassVar[str] = "piecewise"
    points: Sequence[tuple[float, float]]
    by: TimeUnit = "step"

    def __post_init__(self) -> None:
        try:
            points = tuple((float(time), float(factor)) for time, factor in self.points)
        except (TypeError, ValueError) as error:
            raise _refused(self.kind, "points", self.points, "pairs of time and factor") from error
        object.__setattr__(self, "points", points)
        _check_factors(self.kind, {f"at {t:g}": f for t, f in self.points}, self.by)
        times = [time for time, _ in self.points]
        if not times or any(b <= a for a, b in itertools.pairwise(times)):
            raise _refused(self.kind, "points", self.points, "one or more, with rising times")

    def __call__(self, time: float) -> float:
        (before, factor), *rest = self.points
        for after, following in rest:
            if time < after:
                fraction = max(time - before, 0.0) / (after - before)
                return factor + (following - factor) * fraction
            before, factor = after, following
        return factor


SCHEDULES = {
    schedule.kind: schedule
    for schedule in (
        ConstantWeight,
        LinearWeight,
        CosineWeight,
        WarmUpWeight,
        ExponentialWeight,
        PiecewiseWeight,
    )
}


def make_weight_schedule(kind: str, **settings: Any) -> WeightSchedule:
    """Build a schedule by name.

    Example:
        >>> [make_weight_schedule("warm_up", over=4)(step) for step in range(3)]
        [0.0, 0.25, 0.5]

    Raises:
        UnknownNameError: no such schedule.
        ConfigError: a setting is unknown, missing or not allowed.
    """
    if kind not in SCHEDULES:
        raise unknown_name("schedule", kind, sorted(SCHEDULES), field="schedule")
    try:
        return SCHEDULES[kind](**settings)
    except TypeError as error:
        text = str(error).removeprefix(f"{SCHEDULES[kind].__name__}.__init__() ")
        raise ConfigError(f"schedule={kind!r}: {text}", field="schedule") from error


def scheduled_factor(schedule: WeightSchedule, step: int, epoch: float | None) -> float:
    """The factor of a schedule now.

    Raises:
        ConfigError: it goes by epochs and the call did not say which one it is, or its factor is
            negative or not finite.
    """
    time: float = step
    if getattr(schedule, "by", "step") == "epoch":
        if epoch is None:
            raise ConfigError(
                "epoch=None: a schedule goes by epochs and needs it",
                field="epoch",
                hint="pass options=CustomLossOptions(epoch=...), or schedule by='step'",
            )
        time = epoch
    factor = float(schedule(time))
    if not (math.isfinite(factor) and factor >= 0):
        raise ConfigError(
            f"schedule: its factor at {time:g} is {factor}: must be finite and 0 or more",
            field="schedule",
        )
    return factor


def _progress(time: float, over: float) -> float:
    return min(max(time / over, 0.0), 1.0)


def _check_factors(kind: str, factors: dict[str, float], by: str) -> None:
    if by not in ("step", "epoch"):
        raise _refused(kind, "by", by, "'step' or 'epoch'")
    for name, value in factors.items():
        if not (math.isfinite(value) and value >= 0):
            raise _refused(kind, name, value, "finite and 0 or more")


def _check_over(kind: str, over: float) -> None:
    if not (math.isfinite(over) and over > 0):
        raise _refused(kind, "over", over, "above 0")


def _refused(kind: str, name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(
        f"schedule={kind!r}: {name}={value!r}: must be {allowed}", field=f"schedule.{name}"
    )
