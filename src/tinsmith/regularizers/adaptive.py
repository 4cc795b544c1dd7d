"""Weights that follow what a term does: dual ascent to a target, and normalisation by an average.

A rule is a frozen dataclass of pure functions over a small state of numbers: `init` makes it,
`update` moves it once an optimizer step, `factor` reads the weight's factor from it. The state is
kept and saved by `RegularizerState`, never by the rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from tinsmith.core.errors import ConfigError, unknown_name

__all__ = ["RULES", "AdaptiveWeight", "DualAscent", "EmaNormalisation", "make_rule"]

Numbers = Mapping[str, float]


class AdaptiveWeight(Protocol):
    """A rule that moves a term's weight; write your own with these three functions."""

    kind: ClassVar[str]
    """Name of the rule, kept with its state."""

    def init(self) -> Numbers:
        """State before the first step."""
        ...

    def update(self, state: Numbers, value: float) -> Numbers:
        """State after an optimizer step in which the term had `value`."""
        ...

    def factor(self, state: Numbers) -> float:
        """What the weight is multiplied by."""
        ...


@dataclass(frozen=True)
class DualAscent:
    """Hold a term's value at or below `target` by raising its weight while it is above.

    The factor is a Lagrange multiplier: `m <- clip(m + rate * (value - target), low, high)`.

    Attributes:
        target: Value to hold.
        rate: Size of a step of the multiplier.
        initial: Multiplier of the first step.
        low: Smallest multiplier; at 0 the term may switch itself off.
        high: Largest multiplier.

    Source: Boyd and Vandenberghe, "Convex Optimization", 5.6; the multiplier of constrained RL.
    """

    kind: ClassVar[str] = "dual_ascent"
    target: float
    rate: float = 0.1
    initial: float = 1.0
    low: float = 0.0
    high: float = 100.0

    def __post_init__(self) -> None:
        _check_finite(self.kind, {"target": self.target})
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise _refused(self.kind, "rate", self.rate, "above 0")
        if not 0 <= self.low <= self.initial <= self.high < math.inf:
            bounds = (self.low, self.initial, self.high)
            raise _refused(self.kind, "low, initial, high", bounds, "0 or more, finite and rising")

    def init(self) -> Numbers:
        return {"multiplier": self.initial}

    def update(self, state: Numbers, value: float) -> Numbers:
        moved = state["multiplier"] + self.rate * (value - self.target)
        return {"multiplier": min(max(moved, self.low), self.high)}

    def factor(self, state: Numbers) -> float:
        return state["multiplier"]


@dataclass(frozen=True)
class EmaNormalisation:
    """Divide by a running mean of the term's size, so that its weight means a share.

    `ema <- decay * ema + (1 - decay) * |value|` from 0, corrected by `1 - decay ** steps` as Adam's
    moments are; the factor is `1 / max(ema, floor)`, and 1 before the first step.

    Attributes:
        decay: Weight of the past.
        floor: Smallest mean that is divided by.
    """

    kind: ClassVar[str] = "ema"
    decay: float = 0.99
    floor: float = 1e-8

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise _refused(self.kind, "decay", self.decay, "at least 0 and below 1")
        if not (math.isfinite(self.floor) and self.floor > 0):
            raise _refused(self.kind, "floor", self.floor, "above 0")

    def init(self) -> Numbers:
        return {"ema": 0.0, "num_steps": 0.0}

    def update(self, state: Numbers, value: float) -> Numbers:
        ema = self.decay * state["ema"] + (1.0 - self.decay) * abs(value)
        return {"ema": ema, "num_steps": state["num_steps"] + 1}

    def factor(self, state: Numbers) -> float:
        if not state["num_steps"]:
            return 1.0
        mean = state["ema"] / (1.0 - self.decay ** state["num_steps"])
        return 1.0 / max(mean, self.floor)


RULES = {rule.kind: rule for rule in (DualAscent, EmaNormalisation)}


def make_rule(kind: str, **settings: Any) -> AdaptiveWeight:
    """Build a rule by name.

    Raises:
        UnknownNameError: no such rule.
        ConfigError: a setting is unknown, missing or not allowed.
    """
    if kind not in RULES:
        raise unknown_name("state", kind, sorted(RULES), field="state")
    try:
        return RULES[kind](**settings)
    except TypeError as error:
        text = str(error).removeprefix(f"{RULES[kind].__name__}.__init__() ")
        raise ConfigError(f"state={kind!r}: {text}", field="state") from error


def _check_finite(kind: str, numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise _refused(kind, name, value, "finite")


def _refused(kind: str, name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(
        f"state={kind!r}: {name}={value!r}: must be {allowed}", field=f"state.{name}"
    )
