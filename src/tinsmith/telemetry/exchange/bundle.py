"""A whole run in memory: what an export writes, and what an import of any kind yields."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Attempt,
    Batch,
    Event,
    Interval,
    KeyInfo,
    PointColumns,
    RunRecord,
    SampleText,
)
from tinsmith.telemetry.stores.base import Store

__all__ = ["RunBundle", "derived_run_id", "load_bundle", "store_bundle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBundle:
    """A run with everything in it."""

    record: RunRecord
    points: PointColumns = field(default_factory=PointColumns.empty)
    """Points of all attempts."""
    keys: tuple[KeyInfo, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    intervals: tuple[Interval, ...] = ()
    events: tuple[Event, ...] = ()
    samples: tuple[SampleText, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    alerts: tuple[Alert, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict[str, int])
    """What the source has and this bundle does not, counted by kind; empty when it is whole."""


def load_bundle(store: Store, run_id: str) -> RunBundle:
    """Read a run with everything in it.

    Raises:
        UnknownNameError: there is no such run.
    """
    return RunBundle(
        record=store.get_run(run_id),
        points=store.points(run_id, attempt="all"),
        keys=tuple(store.keys(run_id)),
        attempts=tuple(store.attempts(run_id)),
        intervals=tuple(store.intervals(run_id)),
        events=tuple(store.events(run_id)),
        samples=tuple(store.samples(run_id)),
        artifacts=tuple(store.artifacts(run_id)),
        alerts=tuple(store.alerts(run_id)),
    )


def store_bundle(store: Store, bundle: RunBundle) -> None:
    """Write a run with everything in it; a second time changes nothing."""
    run_id = bundle.record.run_id
    store.put_run(bundle.record)
    for attempt in bundle.attempts:
        store.put_attempt(run_id, attempt)
    for interval in bundle.intervals:
        store.put_interval(run_id, interval)
    store.put_keys(run_id, bundle.keys)
    store.append(
        run_id,
        Batch(
            points=bundle.points,
            events=bundle.events,
            samples=bundle.samples,
            artifacts=bundle.artifacts,
            alerts=bundle.alerts,
        ),
    )


def derived_run_id(started_ns: int, *identity: str) -> str:
    """Return the id of a run that another tool recorded: a UUIDv7 that is always the same for it.

    Args:
        started_ns: When the run began; ids sort by it.
        identity: What tells the run from every other: the tool, the project, the tool's own id.
    """
    digest = hashlib.sha256("\x00".join(identity).encode("utf-8", "surrogatepass")).digest()
    value = (started_ns // 1_000_000) & ((1 << 48) - 1)
    value = (value << 80) | int.from_bytes(digest[:10], "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)  # the version
    value = (value & ~(0x3 << 62)) | (0x2 << 62)  # the variant
    return str(uuid.UUID(int=value))
