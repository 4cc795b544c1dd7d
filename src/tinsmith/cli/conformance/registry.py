"""The registry of checks, and how a check fails.

A check is a function of the server under test that returns, or raises. Main names: `check`,
`Check`, `expect`, `expect_close`, `NotAsked`, `all_checks`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tinsmith.cli.conformance.server import Server

__all__ = ["Check", "CheckFailed", "NotAsked", "all_checks", "check", "expect", "expect_close"]

GROUPS = (
    "protocol",
    "losses",
    "gradients",
    "optimizer",
    "tenants",
    "snapshots",
    "delivery",
    "sampling",
    "options",
    "features",
    "errors",
    "restart",
)
"""The modules that hold checks, in the order of the score sheet."""

CheckFn = Callable[["Server"], None]


class CheckFailed(AssertionError):
    """The server did something else than its clients rely on; the message says what."""


class NotAsked(Exception):
    """The check needs something that the caller did not offer; it counts neither way."""


@dataclass(frozen=True)
class Check:
    """One line of the score sheet."""

    name: str
    """`group.function`."""
    title: str
    proves: str
    """What a server that passes may be trusted with."""
    points: int
    run: CheckFn

    @property
    def group(self) -> str:
        """The part of the name before the dot."""
        return self.name.split(".")[0]


_CHECKS: dict[str, Check] = {}


def check(title: str, *, proves: str, points: int = 1) -> Callable[[CheckFn], CheckFn]:
    """Register the function below as a check of its module's group."""

    def register(function: CheckFn) -> CheckFn:
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        add(Check(name, title, proves, points, function))
        return function

    return register


def add(entry: Check) -> None:
    """Register a check that was made by hand; its name must be new."""
    if entry.name in _CHECKS:
        raise ValueError(f"check {entry.name!r} is registered twice")
    _CHECKS[entry.name] = entry


def all_checks() -> Sequence[Check]:
    """Every check, group by group."""
    for group in GROUPS:
        importlib.import_module(f"tinsmith.cli.conformance.{group}")
    return sorted(_CHECKS.values(), key=lambda entry: GROUPS.index(entry.group))


def expect(is_so: object, message: str) -> None:
    """Fail the check with a message unless something holds."""
    if not is_so:
        raise CheckFailed(message)


def expect_close(found: object, expected: object, *, atol: float, what: str) -> None:
    """Fail the check unless two arrays agree; the message names the largest difference."""
    left, right = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    expect(left.shape == right.shape, f"{what}: shape {left.shape}, expected {right.shape}")
    if left.size == 0:
        return
    gap = np.abs(left - right)
    worst = int(np.nanargmax(gap)) if not np.isnan(gap).all() else 0
    text = f"{what}: {left.flat[worst]:.6g}, expected {right.flat[worst]:.6g} (tolerance {atol:g})"
    expect(np.isfinite(gap).all() and gap.flat[worst] <= atol, text)
