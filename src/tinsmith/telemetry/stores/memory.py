"""Runs in memory, for tests and for programs that only look at a run while it lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from tinsmith.core import jsonio
from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Attempt,
    Batch,
    Cursor,
    Event,
    Interval,
    KeyInfo,
    PointColumns,
    RollupRow,
    RollupState,
    RunFilter,
    RunRecord,
    SampleText,
    WriterId,
    observed_status,
)
from tinsmith.telemetry.stores.attempts import attempt_for
from tinsmith.telemetry.stores.lines import AttemptChoice, cuts_of, pick_line
from tinsmith.telemetry.stores.reading import (
    merged_key,
    name_matcher,
    select_runs,
    unknown_run,
    within,
)

__all__ = ["MemoryStore"]

PointKey = tuple[str, int, int, int]
RollupKey = tuple[str, int, int, int]
K = TypeVar("K")
V = TypeVar("V")


class _Log(Generic[K, V]):
    """Values by key, in the order of their last writing, each with its place in that order."""

    def __init__(self) -> None:
        self._values: dict[K, tuple[int, V]] = {}
        self.place = 0

    def write(self, key: K, value: V) -> None:
        self._values.pop(key, None)
        self.place += 1
        self._values[key] = (self.place, value)

    def write_once(self, key: K, value: V) -> None:
        if key not in self._values:
            self.write(key, value)

    def after(self, place: int, limit: int) -> tuple[list[tuple[K, V]], int]:
        """Return what was written after a place, oldest first, and the place of the last of it."""
        newer: list[tuple[int, K, V]] = []
        for key, (at, value) in reversed(self._values.items()):
            if at <= place:
                break
            newer.append((at, key, value))
        page = newer[::-1][:limit]
        return [(key, value) for _, key, value in page], page[-1][0] if page else place

    def items(self) -> Iterator[tuple[K, V]]:
        return ((key, value) for key, (_, value) in self._values.items())

    def values(self) -> list[V]:
        return [value for _, value in self._values.values()]


@dataclass(slots=True)
class _Run:
    record: RunRecord
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict[tuple[int, int], Attempt])
    intervals: dict[tuple[int, int, int], Interval] = field(
        default_factory=dict[tuple[int, int, int], Interval]
    )
    keys: dict[str, KeyInfo] = field(default_factory=dict[str, KeyInfo])
    points: _Log[PointKey, tuple[int, float]] = field(
        default_factory=_Log[PointKey, tuple[int, float]]
    )
    events: _Log[str, Event] = field(default_factory=_Log[str, Event])
    samples: _Log[str, SampleText] = field(default_factory=_Log[str, SampleText])
    artifacts: _Log[tuple[str, str], Artifact] = field(
        default_factory=_Log[tuple[str, str], Artifact]
    )
    alerts: _Log[str, Alert] = field(default_factory=_Log[str, Alert])
    rollups: dict[RollupKey, RollupRow] = field(default_factory=dict[RollupKey, RollupRow])
    rollup_state: RollupState = field(default_factory=RollupState)

    def observed(self) -> RunRecord:
        status = observed_status(self.record, self.attempts.values(), time.time_ns())
        return replace(self.record, status=status)

    def cursor(self) -> Cursor:
        logs = (self.points, self.events, self.samples, self.artifacts, self.alerts)
        return Cursor(*(log.place for log in logs))


class MemoryStore:
    """A store that ends with the process, and that no other process sees."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._lock = threading.RLock()

    @property
    def url(self) -> str:
        return "memory:"

    # ---------------------------------------------------------------------------------- runs

    def put_run(self, record: RunRecord, *, replace: bool = True) -> bool:
        with self._lock:
            run = self._runs.get(record.run_id)
            if run is None:
                self._runs[record.run_id] = _Run(record)
            elif replace:
                run.record = record
            return run is None or replace

    def get_run(self, run_id: str) -> RunRecord:
        with self._lock:
            return self._run(run_id).observed()

    def list_runs(self, where: RunFilter | None = None) -> list[RunRecord]:
        with self._lock:
            return select_runs([run.observed() for run in self._runs.values()], where)

    def delete_run(self, run_id: str) -> None:
        with self._lock:
            self._run(run_id)
            del self._runs[run_id]

    def _run(self, run_id: str) -> _Run:
        run = self._runs.get(run_id)
        if run is None:
            raise unknown_run(run_id, self._runs)
        return run

    # ------------------------------------------------------------------------------- writers

    def begin_attempt(
        self,
        run_id: str,
        writer: WriterId,
        *,
        resumed_from_step: int | None = None,
        attempt: int | None = None,
    ) -> Attempt:
        with self._lock:
            run, now_ns = self._run(run_id), time.time_ns()
            number = attempt_for(list(run.attempts.values()), writer, now_ns, asked=attempt)
            begun = Attempt(
                attempt=number,
                started_ns=now_ns,
                heartbeat_ns=now_ns,
                resumed_from_step=resumed_from_step,
                **writer._asdict(),
            )
            run.attempts[number, writer.rank] = begun
            return begun

    def put_attempt(self, run_id: str, attempt: Attempt) -> None:
        with self._lock:
            self._run(run_id).attempts[attempt.attempt, attempt.rank] = attempt

    def attempts(self, run_id: str) -> list[Attempt]:
        with self._lock:
            return [attempt for _, attempt in sorted(self._run(run_id).attempts.items())]

    def put_interval(self, run_id: str, interval: Interval) -> None:
        place = (interval.attempt, interval.rank, interval.index)
        with self._lock:
            self._run(run_id).intervals[place] = interval

    def intervals(self, run_id: str) -> list[Interval]:
        with self._lock:
            return [interval for _, interval in sorted(self._run(run_id).intervals.items())]

    # --------------------------------------------------------------------------------- keys

    def put_keys(self, run_id: str, infos: Iterable[KeyInfo]) -> None:
        with self._lock:
            known = self._run(run_id).keys
            for info in infos:
                known[info.key] = merged_key(known.get(info.key), info)

    def keys(self, run_id: str) -> list[KeyInfo]:
        with self._lock:
            return [info for _, info in sorted(self._run(run_id).keys.items())]

    # ---------------------------------------------------------------------------- the record

    def append(self, run_id: str, batch: Batch) -> Cursor:
        for record in (*batch.events, *batch.samples, *batch.artifacts, *batch.alerts):
            jsonio.dumps(record.metadata)  # what no other store could keep is refused here, too
        with self._lock:
            run = self._run(run_id)
            for key, step, rank, attempt, ts_ns, value in batch.points.rows():
                run.points.write((key, step, rank, attempt), (ts_ns, value))
                if key not in run.keys:
                    run.keys[key] = KeyInfo(key=key)
            for event in batch.events:
                run.events.write_once(event.event_id, event)
            for sample in batch.samples:
                run.samples.write_once(sample.sample_id, sample)
            for artifact in batch.artifacts:
                run.artifacts.write((artifact.digest, artifact.name), artifact)
            for alert in batch.alerts:
                run.alerts.write(alert.alert_id, alert)
            return run.cursor()

    def tail(self, run_id: str, cursor: Cursor, limit: int = 10_000) -> tuple[Batch, Cursor]:
        with self._lock:
            run = self._run(run_id)
            points, at_points = run.points.after(cursor.points, limit)
            events, at_events = run.events.after(cursor.events, limit)
            samples, at_samples = run.samples.after(cursor.samples, limit)
            artifacts, at_artifacts = run.artifacts.after(cursor.artifacts, limit)
            alerts, at_alerts = run.alerts.after(cursor.alerts, limit)
        batch = Batch(
            points=PointColumns.from_rows((*key, *point) for key, point in points),
            events=tuple(event for _, event in events),
            samples=tuple(sample for _, sample in samples),
            artifacts=tuple(artifact for _, artifact in artifacts),
            alerts=tuple(alert for _, alert in alerts),
        )
        return batch, Cursor(at_points, at_events, at_samples, at_artifacts, at_alerts)

    def points(
        self,
        run_id: str,
        keys: Sequence[str] | None = None,
        *,
        first_step: int | None = None,
        last_step: int | None = None,
        ranks: Sequence[int] | None = None,
        attempt: AttemptChoice = "effective",
    ) -> PointColumns:
        with self._lock:
            run = self._run(run_id)
            wanted = list(dict.fromkeys(sorted(run.keys) if keys is None else keys))
            chosen = set(wanted)
            rows = [
                (*place, *point)
                for place, point in run.points.items()
                if place[0] in chosen
                and within(place[1], first_step, last_step)
                and (ranks is None or place[2] in ranks)
            ]
            cuts = cuts_of(run.attempts.values())
        order = {key: position for position, key in enumerate(wanted)}
        rows.sort(key=lambda row: order[row[0]])
        return pick_line(PointColumns.from_rows(rows), cuts, attempt)

    def events(
        self,
        run_id: str,
        pattern: str = "*",
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
        trace_id: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        is_wanted = name_matcher(pattern)
        with self._lock:
            found = [
                event
                for event in self._run(run_id).events.values()
                if is_wanted(event.name)
                and within(event.ts_ns, since_ns, until_ns)
                and trace_id in (None, event.trace_id)
            ]
        found.sort(key=lambda event: (event.ts_ns, event.event_id))
        return found if limit is None else found[max(len(found) - limit, 0) :]

    def samples(
        self, run_id: str, *, first_step: int | None = None, last_step: int | None = None
    ) -> list[SampleText]:
        with self._lock:
            listed = self._run(run_id).samples.values()
        found = [sample for sample in listed if within(sample.step, first_step, last_step)]
        return sorted(found, key=lambda sample: (sample.step, sample.ts_ns, sample.sample_id))

    def artifacts(self, run_id: str) -> list[Artifact]:
        with self._lock:
            listed = self._run(run_id).artifacts.values()
        return sorted(listed, key=lambda one: (one.ts_ns, one.digest, one.name))

    def alerts(self, run_id: str) -> list[Alert]:
        with self._lock:
            listed = self._run(run_id).alerts.values()
        return sorted(listed, key=lambda alert: (alert.opened_ns, alert.alert_id))

    # ------------------------------------------------------------------------------- roll-ups

    def rollups(
        self,
        run_id: str,
        keys: Sequence[str],
        level: int,
        *,
        first_bucket: int | None = None,
        last_bucket: int | None = None,
        ranks: Sequence[int] | None = None,
        with_sketches: bool = True,
    ) -> list[RollupRow]:
        with self._lock:
            rows = list(self._run(run_id).rollups.values())
        order = {key: position for position, key in enumerate(keys)}
        found = [
            row if with_sketches else row._replace(sketch=b"")
            for row in rows
            if row.key in order
            and row.level == level
            and within(row.bucket, first_bucket, last_bucket)
            and (ranks is None or row.rank in ranks)
        ]
        return sorted(found, key=lambda row: (order[row.key], row.bucket, row.rank))

    def rollup_state(self, run_id: str) -> RollupState:
        with self._lock:
            return self._run(run_id).rollup_state

    def replace_rollups(
        self,
        run_id: str,
        rows: Iterable[RollupRow],
        emptied: Iterable[tuple[str, int, int, int]],
        state: RollupState,
        expected: RollupState,
    ) -> bool:
        with self._lock:
            run = self._run(run_id)
            if run.rollup_state != expected:
                return False
            for place in emptied:
                run.rollups.pop(place, None)
            for row in rows:
                run.rollups[row.key, row.rank, row.level, row.bucket] = row
            run.rollup_state = state
            return True

    def close(self) -> None:
        """Keep everything: another reader of this object may come."""
