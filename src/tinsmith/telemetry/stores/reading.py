"""Selections that every store makes alike."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import TypeVar

from tinsmith.core.errors import UnknownNameError, unknown_name
from tinsmith.telemetry.model import KeyInfo, RunFilter, RunRecord

__all__ = ["merged_key", "name_matcher", "select_runs", "unknown_run", "within"]

Number = TypeVar("Number", int, float)


def unknown_run(run_id: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a run that a store does not have."""
    return unknown_name("run_id", run_id, known, field="run_id")


def select_runs(runs: Iterable[RunRecord], where: RunFilter | None) -> list[RunRecord]:
    """Return the runs that a filter asks for, the newest first."""
    where = where or RunFilter()
    found = [run for run in runs if where.matches(run)]
    found.sort(key=lambda run: (run.created_ns, run.run_id), reverse=True)
    return found if where.limit is None else found[: where.limit]


def name_matcher(pattern: str) -> Callable[[str], bool]:
    """Return the test of names against a shell pattern; `*` matches dots too."""
    if pattern == "*":
        return lambda name: True
    compiled = re.compile(fnmatch.translate(pattern))
    return lambda name: compiled.match(name) is not None


def within(value: Number, first: Number | None, last: Number | None) -> bool:
    """Whether a value lies between two bounds, both included; None does not bound."""
    return (first is None or value >= first) and (last is None or value <= last)


def merged_key(old: KeyInfo | None, new: KeyInfo) -> KeyInfo:
    """Return what is known of a key after `new` was said; its None fields change nothing."""
    if old is None:
        return new
    said = {
        field.name: getattr(new, field.name)
        for field in fields(new)
        if getattr(new, field.name) is not None
    }
    kept = {field.name: getattr(old, field.name) for field in fields(old)}
    return KeyInfo(**{**kept, **said})
