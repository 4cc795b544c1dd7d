"""What a run may be told when it begins, and the check of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any, TypedDict, cast

from tinsmith.core.errors import ConfigError, unknown_name
from tinsmith.telemetry.payload import shown
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.writer import Durability, WriterOptions

__all__ = ["RunSettings", "check_settings"]

_LEAST = {"rank": 0, "attempt": 1, "resumed_from_step": -(2**63), "forked_from_step": -(2**63)}
"""Settings that are whole numbers, and the first that each may be."""


class RunSettings(TypedDict, total=False):
    """What `init` may be told beside project, name and configuration."""

    run_id: str
    """The run to go on with, or the id of a new one: letters, digits, dots, dashes."""
    resumed_from_step: int
    """Last step of earlier attempts that still counts; later ones are hidden."""
    hypothesis: str
    condition: str
    group: str
    job: str
    parent_run: str
    forked_from_step: int
    tags: Sequence[str]
    seed: int
    metadata: Mapping[str, object]
    rank: int
    """Of this process; by default that of its launch (`RANK`), else 0."""
    attempt: int
    """Number of the launch, where its launcher knows it."""
    store: str | Path | Store
    """Where to record; by default what `TINSMITH_RECORD` says, else the data folder."""
    durability: Durability
    """"async" (at most 50 ms may be lost by a kill) or "commit" (nothing that was acknowledged)."""
    options: WriterOptions
    """Bounds and times of the writer."""


def check_settings(settings: RunSettings) -> RunSettings:
    """Return settings with their whole numbers as plain integers; None means not said.

    Raises:
        UnknownNameError: a setting that there is not.
        ConfigError: a number that is not whole or too small, or tags that are one text.
    """
    checked: dict[str, Any] = {}  # Any: the values of a TypedDict
    for name, value in settings.items():
        if name not in RunSettings.__annotations__:
            raise unknown_name("setting", name, RunSettings.__annotations__)
        if value is not None:
            checked[name] = _whole(name, value) if name in _LEAST else value
    if isinstance(checked.get("tags"), str):
        raise ConfigError(f"tags={shown(checked['tags'])}: must be a list of texts", field="tags")
    return cast("RunSettings", checked)


def _whole(name: str, value: Any) -> int:  # Any: what the caller gave
    least = _LEAST[name]
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if not least <= number < 2**63:
        allowed = f"from {least} on" if least >= 0 else "of 64 bits"
        raise ConfigError(f"{name}={shown(value)}: must be a whole number {allowed}", field=name)
    return number
