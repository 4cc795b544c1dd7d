"""What the recorder keeps: runs, attempts, points, events, texts, artifacts, alerts, roll-ups.

Plain data, shared by the writer, every store and every reader. A point is known by (key, step,
rank, attempt) within its run: writing it again replaces it. An *attempt* is one life of the run's
processes: a run that was killed and resumed has two, and the numbers of the later one win.

Times are nanoseconds since 1970 (`_ns`) unless a name says monotonic. Ids of runs, events, texts
and alerts are UUIDv7 as text; trace and span ids are those of W3C Trace Context.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AMBIENT_PROJECT",
    "CRASHED_AFTER_S",
    "Alert",
    "Artifact",
    "Attempt",
    "Batch",
    "Cursor",
    "Event",
    "GitState",
    "Goal",
    "Interval",
    "Json",
    "KeyInfo",
    "PointColumns",
    "RollupRow",
    "RollupState",
    "RunFilter",
    "RunRecord",
    "RunStatus",
    "RunTimes",
    "SampleText",
    "Severity",
    "WriterId",
    "observed_status",
    "run_times",
]

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Goal = Literal["min", "max"]
Severity = Literal["info", "warning", "error"]

CRASHED_AFTER_S = 30.0
"""A writer that has given no sign of life for so long counts as dead."""

AMBIENT_PROJECT = "ambient"
"""The project of the runs that collect what happened outside any run."""


class RunStatus(StrEnum):
    """Where a run, or one writer of it, is in its life."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"
    CRASHED = "crashed"  # heartbeat lost; never written, only observed
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True, kw_only=True)
class GitState:
    """The code that a run came from."""

    revision: str
    branch: str | None = None
    is_dirty: bool = False
    diff: str | None = None
    """Uncommitted changes as a patch, cut after a megabyte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What is known of a run beside its numbers.

    `status` is what a store *observes* when it reads (see `observed_status`); what `put_run` is
    given matters only for runs without attempts and for archived ones.
    """

    run_id: str
    project: str
    name: str
    created_ns: int
    status: RunStatus = RunStatus.CREATED
    group: str | None = None
    """Runs that belong together, for instance the seeds of one setting."""
    job: str | None = None
    """What the run does within its group: "train", "eval"."""
    parent_run: str | None = None
    forked_from_step: int | None = None
    """Step of `parent_run` from which this run went on."""
    hypothesis: str | None = None
    condition: str = "default"
    """Arm of the experiment: "control", "treatment"."""
    tags: tuple[str, ...] = ()
    config: Mapping[str, Json] = field(default_factory=dict[str, "Json"])
    seed: int | None = None
    git: GitState | None = None
    command: tuple[str, ...] = ()
    metadata: Mapping[str, Json] = field(default_factory=dict[str, "Json"])


class WriterId(NamedTuple):
    """Which process writes a rank of a run."""

    rank: int
    pid: int
    host: str
    process_start: str = ""
    """Tells a process from a later one with the same pid; empty where it cannot be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One life of one rank's writer; ranks of one launch share the number."""

    attempt: int
    """From 1; the number of the run's launch."""
    rank: int
    pid: int
    host: str
    process_start: str = ""
    started_ns: int
    heartbeat_ns: int
    ended_ns: int | None = None
    status: RunStatus = RunStatus.RUNNING
    exit_code: int | None = None
    resumed_from_step: int | None = None
    """Last step of earlier attempts that still counts; later ones are hidden from then on."""
    health: Mapping[str, int] = field(default_factory=dict[str, int])
    """Exact counts of what was dropped, refused or cut, by kind; empty when nothing was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A stretch of active or paused time of one rank in one attempt."""

    attempt: int
    rank: int
    index: int
    """From 0 within the attempt and rank."""
    kind: Literal["active", "paused"]
    started_ns: int
    ended_ns: int | None
    """None while it lasts, and for ever where the process was killed."""
    duration_ns: int
    """Measured on the monotonic clock, so that a clock that jumps does not change it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """What a metric's numbers mean."""

    key: str
    unit: str | None = None
    goal: Goal | None = None
    """Whether less or more is better."""
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened: a moment, or with `duration_ns` a span that began at `ts_ns`."""

    event_id: str
    name: str
    ts_ns: int
    mono_ns: int
    duration_ns: int | None = None
    step: int | None = None
    rank: int = 0
    attempt: int = 1
    trace_id: str | None = None
    """32 hexadecimal digits."""
    span_id: str | None = None
    """16 hexadecimal digits: of the span that this event is, or in which it happened."""
    parent_id: str | None = None
    inclusion_p: float = 1.0
    """Probability with which sampling kept it; 1 / inclusion_p is its weight."""
    measurements: Mapping[str, float] = field(default_factory=dict[str, float])
    metadata: Mapping[str, Json] = field(default_factory=dict[str, "Json"])


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleText:
    """A prompt and what the model made of it."""

    sample_id: str
    step: int
    ts_ns: int
    prompt: str
    completion: str
    rank: int = 0
    attempt: int = 1
    token_logprobs: tuple[float, ...] | None = None
    rewards: Mapping[str, float] = field(default_factory=dict[str, float])
    trace_id: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict[str, "Json"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file that a run made or used; (digest, name) is its identity."""

    digest: str
    """SHA-256 of the content, in hexadecimal."""
    name: str
    kind: str
    uri: str
    num_bytes: int
    ts_ns: int
    step: int | None = None
    rank: int = 0
    attempt: int = 1
    metadata: Mapping[str, Json] = field(default_factory=dict[str, "Json"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A rule that fired; written again under its id when its state changes."""

    alert_id: str
    rule: str
    message: str
    opened_ns: int
    closed_ns: int | None = None
    severity: Severity = "warning"
    key: str | None = None
    step: int | None = None
    score: float | None = None
    threshold: float | None = None
    rank: int = 0
    attempt: int = 1
    metadata: Mapping[str, Json] = field(default_factory=dict[str, "Json"])


@dataclass(frozen=True, slots=True, eq=False)
class PointColumns:
    """Points as columns of equal length; `key` holds positions in `names`.

    NaN and the infinities are values like any other.
    """

    names: tuple[str, ...]
    key: NDArray[np.int32]
    step: NDArray[np.int64]
    rank: NDArray[np.int32]
    attempt: NDArray[np.int32]
    ts_ns: NDArray[np.int64]
    value: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        key: Sequence[int] | NDArray[np.int32],
        step: Sequence[int] | NDArray[np.int64],
        value: Sequence[float] | NDArray[np.float64],
        *,
        ts_ns: Sequence[int] | NDArray[np.int64] | int = 0,
        rank: Sequence[int] | NDArray[np.int32] | int = 0,
        attempt: Sequence[int] | NDArray[np.int32] | int = 1,
    ) -> Self:
        """Make columns of sequences; a single number is repeated."""
        shape = np.shape(step)
        return cls(
            names=tuple(names),
            key=np.asarray(key, dtype=np.int32),
            step=np.asarray(step, dtype=np.int64),
            rank=np.broadcast_to(np.asarray(rank, dtype=np.int32), shape),
            attempt=np.broadcast_to(np.asarray(attempt, dtype=np.int32), shape),
            ts_ns=np.broadcast_to(np.asarray(ts_ns, dtype=np.int64), shape),
            value=np.asarray(value, dtype=np.float64),
        )

    @classmethod
    def empty(cls) -> Self:
        """Return no points."""
        return cls.of((), [], [], [])

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, int, int, int, int, float]]) -> Self:
        """Make columns of rows (key, step, rank, attempt, ts_ns, value)."""
        codes: dict[str, int] = {}
        listed = [(codes.setdefault(row[0], len(codes)), *row[1:]) for row in rows]
        if not listed:
            return cls.empty()
        key, step, rank, attempt, ts_ns, value = zip(*listed, strict=True)
        return cls.of(tuple(codes), key, step, value, ts_ns=ts_ns, rank=rank, attempt=attempt)

    def rows(self) -> list[tuple[str, int, int, int, int, float]]:
        """Rows (key, step, rank, attempt, ts_ns, value) as Python numbers."""
        names: list[str] = [self.names[code] for code in self.key.tolist()]
        return list(
            zip(
                names,
                self.step.tolist(),
                self.rank.tolist(),
                self.attempt.tolist(),
                self.ts_ns.tolist(),
                self.value.tolist(),
                strict=True,
            )
        )

    def take(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        """Return the rows that a mask or positions select; `names` stay."""
        return type(self)(
            self.names,
            self.key[index],
            self.step[index],
            self.rank[index],
            self.attempt[index],
            self.ts_ns[index],
            self.value[index],
        )

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one transaction writes, or one read of the tail returns."""

    points: PointColumns = field(default_factory=PointColumns.empty)
    """Within a batch, too, the last row of a (key, step, rank, attempt) wins."""
    events: tuple[Event, ...] = ()
    samples: tuple[SampleText, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    alerts: tuple[Alert, ...] = ()

    def __len__(self) -> int:
        texts = len(self.samples) + len(self.artifacts) + len(self.alerts)
        return len(self.points) + len(self.events) + texts


class Cursor(NamedTuple):
    """How far a reader has come in the changes of a run; the default is the beginning.

    Only a store makes sense of the numbers, and only of those it gave out itself.
    """

    points: int = 0
    events: int = 0
    samples: int = 0
    artifacts: int = 0
    alerts: int = 0


class RollupRow(NamedTuple):
    """Summary of one key in one bucket of steps of the effective line.

    A bucket of `level` holds the steps `bucket * level` up to, not including, the next. Without
    finite values the reals are NaN (the total 0) and the steps 0. A tuple, since a chart reads ten
    thousand of them.
    """

    key: str
    rank: int
    level: int
    bucket: int
    n: int
    """Number of finite values."""
    num_nan: int
    num_pos_inf: int
    num_neg_inf: int
    nonfinite_step: int
    """The first step with a NaN or infinity; 0 where there is none."""
    total: float
    mean: float
    m2: float
    """Sum of squared deviations from the mean: variance is m2 / (n - 1)."""
    minimum: float
    maximum: float
    first: float
    last: float
    minimum_step: int
    maximum_step: int
    first_step: int
    last_step: int
    sketch: bytes
    """Mergeable quantile sketch of the finite values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupState:
    """Up to where the roll-ups of a run are right: what changed after it makes buckets dirty."""

    cursor: int = 0
    """`Cursor.points` of the last refresh."""
    cuts: Mapping[int, int] = field(default_factory=dict[int, int])
    """`resumed_from_step` of each attempt that the last refresh knew of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list; what is None does not restrict, tags must all be there."""

    project: str | None = None
    group: str | None = None
    name: str | None = None
    condition: str | None = None
    status: RunStatus | None = None
    tags: tuple[str, ...] = ()
    parent_run: str | None = None
    limit: int | None = None

    def matches(self, run: RunRecord) -> bool:
        """Whether a run, with the status observed, is asked for."""
        wanted = (
            (self.project, run.project),
            (self.group, run.group),
            (self.name, run.name),
            (self.condition, run.condition),
            (self.status, run.status),
            (self.parent_run, run.parent_run),
        )
        equal = all(want is None or want == has for want, has in wanted)
        return equal and set(self.tags) <= set(run.tags)


class RunTimes(NamedTuple):
    """How long a run took, summed over its attempts."""

    wall_s: float
    """Active and paused time, by the monotonic clock."""
    active_s: float
    paused_s: float


def observed_status(run: RunRecord, attempts: Iterable[Attempt], now_ns: int) -> RunStatus:
    """Say how a run fares, from the writers of its last attempt.

    Archived runs stay archived, runs without attempts are what they were stored as. Otherwise any
    writer that lives makes the run running (or paused, when all that live are); one that failed
    makes it failed; one that is silent for 30 s without an end makes it crashed.
    """
    listed = list(attempts)
    if run.status is RunStatus.ARCHIVED or not listed:
        return run.status
    last = max(attempt.attempt for attempt in listed)
    seen = {_writer_status(attempt, now_ns) for attempt in listed if attempt.attempt == last}
    order = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.FAILED, RunStatus.CRASHED)
    return next((status for status in order if status in seen), RunStatus.FINISHED)


def _writer_status(writer: Attempt, now_ns: int) -> RunStatus:
    if writer.ended_ns is None and now_ns - writer.heartbeat_ns > CRASHED_AFTER_S * 1e9:
        return RunStatus.CRASHED
    return writer.status


def run_times(intervals: Iterable[Interval]) -> RunTimes:
    """Add up a run's time: within an attempt its longest rank counts, attempts are summed."""
    spent: dict[int, dict[int, dict[str, int]]] = {}
    for interval in intervals:
        kinds = spent.setdefault(interval.attempt, {}).setdefault(interval.rank, {})
        kinds[interval.kind] = kinds.get(interval.kind, 0) + interval.duration_ns
    longest = [
        max(ranks.values(), key=lambda kinds: sum(kinds.values())) for ranks in spent.values()
    ]
    active, paused = (
        sum(kinds.get(kind, 0) for kinds in longest) / 1e9 for kind in ("active", "paused")
    )
    return RunTimes(active + paused, active, paused)
