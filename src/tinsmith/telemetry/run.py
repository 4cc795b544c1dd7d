"""A run as the code that is being recorded sees it: `log`, `event`, `span`, `sample`, `finish`.

Recording never raises into a training loop and never waits for long: a value that cannot be kept is
refused, counted in `Run.health` and warned of once. Within `catalogue.strictly()` (tests) the same
mistakes raise.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import time_ns
from types import TracebackType
from typing import Concatenate, Literal, ParamSpec, Self, get_args

from tinsmith.core.errors import UserError
from tinsmith.core.ids import new_uuid7
from tinsmith.telemetry import events
from tinsmith.telemetry.artifacts import digest_of
from tinsmith.telemetry.catalogue import EventSpec, check_emission, is_strict
from tinsmith.telemetry.context import current_trace
from tinsmith.telemetry.errors import TelemetryWarning
from tinsmith.telemetry.health import Health
from tinsmith.telemetry.intake import FIRST_STEP, LAST_STEP, PLAIN, Intake
from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Attempt,
    Batch,
    Event,
    Goal,
    Interval,
    KeyInfo,
    RunRecord,
    RunStatus,
    RunTimes,
    SampleText,
    Severity,
    run_times,
)
from tinsmith.telemetry.payload import (
    MAX_METADATA_CHARS,
    MAX_TEXT_CHARS,
    Tidier,
    key_trouble,
    shown,
)
from tinsmith.telemetry.spans import Span
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.reading import name_matcher
from tinsmith.telemetry.timeline import Timeline
from tinsmith.telemetry.writer import Writer, WriterOptions

__all__ = ["Run"]

Metrics = Mapping[str, object]
P = ParamSpec("P")


def _safely(
    record: Callable[Concatenate[Run, P], None],
) -> Callable[Concatenate[Run, P], None]:
    """Make whatever a recording method raises a counted mistake, which raises in tests alone."""

    @functools.wraps(record)
    def recorded(run: Run, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            record(run, *args, **kwargs)
        except TelemetryWarning:
            raise  # somebody made warnings errors
        except Exception as error:
            if is_strict():
                raise
            run.intake.mistake(record.__name__, UserError(f"{record.__name__}: {error}"))

    return recorded


class Run:
    """A run that this process writes as one rank; made by `init` and `attach`.

    A context manager: leaving the block finishes the run, by an exception as failed.

    Args:
        store: Where it is written.
        record: What is known of it.
        attempt: This writer's registration.
        options: Bounds and times of the writer.
        on_finish: Called once when the run is finished.
        is_off: Record nothing at all; every call is allowed and does nothing.
    """

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        attempt: Attempt,
        options: WriterOptions,
        on_finish: Callable[[Run], None] | None = None,
        *,
        is_off: bool = False,
    ) -> None:
        self.store = store
        self._record = record
        self._attempt = attempt
        self._on_finish = on_finish
        self._health = Health()
        self.intake = Intake(self._health)
        self._timeline = Timeline(attempt.attempt, attempt.rank)
        self._writer = Writer(store, record.run_id, self._state, self._health, options)
        self.outer: Run | None = None
        """The run that was the current one when this began; it is so again when this ends."""
        self._is_off = is_off
        self._is_recording = not is_off
        self._is_commit = options.durability == "commit"
        self._step = -1 if attempt.resumed_from_step is None else attempt.resumed_from_step
        if not is_off:
            self._writer.start()

    # ------------------------------------------------------------------------------- what it is

    @property
    def run_id(self) -> str:
        return self._record.run_id

    @property
    def project(self) -> str:
        return self._record.project

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def rank(self) -> int:
        return self._attempt.rank

    @property
    def attempt(self) -> int:
        return self._attempt.attempt

    @property
    def record(self) -> RunRecord:
        """What is known of the run; its status as this writer has it."""
        return replace(self._record, status=self.status)

    @property
    def status(self) -> RunStatus:
        """Running, paused, finished or failed."""
        return self._attempt.status

    @property
    def is_open(self) -> bool:
        """Whether the run is not finished yet."""
        return self._attempt.ended_ns is None

    @property
    def is_off(self) -> bool:
        """Whether nothing is recorded because recording is turned off."""
        return self._is_off

    @property
    def is_child(self) -> bool:
        """Whether this process was forked from the one that opened the run."""
        return self._writer.is_child

    @property
    def step(self) -> int:
        """The step of the last `log`; -1 before the first."""
        return self._step

    @property
    def health(self) -> Mapping[str, int]:
        """Exact counts of what was refused, cut, dropped or lost, by kind; empty if nothing was."""
        return self._health.counts()

    @property
    def trouble(self) -> str | None:
        """What the store fails with at the moment; None while it works."""
        return self._writer.trouble

    @property
    def times(self) -> RunTimes:
        """Wall, active and paused time of this attempt so far."""
        return run_times(self._timeline.so_far())

    def __repr__(self) -> str:
        return f"<Run {self.name!r} {self.run_id} {self.status.value} at step {self._step}>"

    # -------------------------------------------------------------------------------- recording

    def log(self, metrics: Metrics, step: int | None = None) -> None:
        """Record numbers of a step.

        Costs about a microsecond: the values are put on a queue, and the writer thread does the
        rest. A tensor on a device is copied there; nobody waits for the device here.

        Args:
            metrics: Values by name: numbers, NumPy scalars, arrays or tensors of one element. NaN
                and infinities are kept. Text, complex numbers and larger arrays are refused.
            step: Any integer of 64 bits; without it, one more than the last. Steps may come in any
                order and again: the last value of a (name, step) wins.
        """
        if not self._is_recording:
            self._skip(metrics)
            return
        try:
            values: dict[str, object] = dict(metrics)
        except Exception:  # noqa: BLE001 - other people's objects may raise anything
            kind = type(metrics).__name__
            self.intake.mistake(
                "metrics", UserError(f"log: must be a map of numbers, not a {kind}")
            )
            return
        if step is None:
            step = self._step + 1
        if type(step) is not int or not FIRST_STEP <= step <= LAST_STEP:
            whole = self.intake.step(step)
            if whole is None:
                return
            step = whole
        if not PLAIN.issuperset(map(type, values.values())):
            values = self.intake.settled(values)
        writer = self._writer
        now_ns = time_ns()
        if now_ns > writer.late_ns and not writer.catch_up():
            self._health.count("dropped_points", len(values))
            self._health.warn_once(
                "dropped points", "points come faster than they can be written; some are dropped"
            )
            return
        self._step = step
        writer.calls.append((now_ns, step, values))
        if not writer.is_awake:
            writer.wake()
        if self._is_commit:
            self._acknowledge()

    @_safely
    def event(
        self,
        event: EventSpec | str,
        measurements: Metrics | None = None,
        *,
        metadata: Mapping[str, object] | None = None,
        step: int | None = None,
    ) -> None:
        """Record that something happened, now, in the current trace.

        Args:
            event: A registered event or its name (`telemetry.events`, `telemetry.register`).
            measurements: Numbers; what has a dimension names its unit: `duration_ms`.
            metadata: Anything else; becomes JSON, with secrets by name removed.
            step: The step it belongs to.

        Raises:
            UserError: the event is not registered or a unit unknown, where that is strict.
        """
        place = current_trace()
        self.record_event(
            event,
            measurements,
            metadata=metadata,
            step=step,
            times=(time_ns(), time.monotonic_ns(), None),
            ids=(place.trace_id, place.span_id, None) if place else (None, None, None),
        )

    def span(
        self,
        event: EventSpec | str,
        *,
        step: int | None = None,
        announce: bool = False,
        **metadata: object,
    ) -> Span:
        """Return a block of work to enter, recorded as one event when it ends.

        Args:
            event: A registered span or its name.
            step: The step it belongs to.
            announce: Record `<name>.started` at its beginning, too.
            metadata: Anything to know of it.
        """
        return Span(self, event, dict(metadata), step, is_announced=announce)

    @_safely
    def sample(
        self,
        prompt: str,
        completion: str,
        *,
        step: int | None = None,
        token_logprobs: Sequence[float] | None = None,
        rewards: Mapping[str, float] | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Record a prompt and what the model made of it; texts beyond 16 M characters are cut.

        Without `step`, that of the last `log` (-1 before the first).
        """
        if not self._may_record():
            return
        whole = self.intake.step(step)
        place = current_trace()
        tidy = Tidier()
        sample = SampleText(
            sample_id=new_uuid7(),
            step=self._step if whole is None else whole,
            ts_ns=time_ns(),
            prompt=tidy.text(prompt, MAX_TEXT_CHARS),
            completion=tidy.text(completion, MAX_TEXT_CHARS),
            rank=self.rank,
            attempt=self.attempt,
            token_logprobs=None if token_logprobs is None else tuple(map(float, token_logprobs)),
            rewards=self.intake.measured(rewards or {}),
            trace_id=place.trace_id if place else None,
            metadata=tidy.mapping(metadata),
        )
        self._put(sample, tidy)

    @_safely
    def artifact(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        kind: str = "file",
        digest: str | None = None,
        step: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Record a file or folder that the run made or used; it stays where it is.

        Reads all of it for its digest, unless the digest is given.

        Args:
            path: The file or folder, or an address (`s3://...`), whose digest has to be given.
            name: What to call it; the last part of the path by default.
            kind: "checkpoint", "dataset", ...
            digest: SHA-256 of the content, where it is known.
            step: The step it belongs to.
            metadata: Anything else.
        """
        if not self._may_record():
            return
        try:
            found = digest_of(path, digest)
        except (OSError, UserError) as error:
            self.intake.mistake("artifact", UserError(f"artifact={str(path)!r}: {error}"))
            return
        tidy = Tidier()
        self._put(
            Artifact(
                digest=found.digest,
                name=tidy.text(name or found.name, 1_000),
                kind=tidy.text(kind, 1_000),
                uri=found.uri,
                num_bytes=found.num_bytes,
                ts_ns=time_ns(),
                step=self.intake.step(step),
                rank=self.rank,
                attempt=self.attempt,
                metadata=tidy.mapping(metadata),
            ),
            tidy,
        )

    def alert(
        self,
        rule: str,
        message: str,
        *,
        severity: Severity = "warning",
        key: str | None = None,
        step: int | None = None,
        score: float | None = None,
        threshold: float | None = None,
    ) -> Alert:
        """Record that a rule fired, and return the alert, for `resolve`."""
        tidy = Tidier()
        given = {"score": score, "threshold": threshold}
        numbers = {name: value for name, value in given.items() if value is not None}
        numbers = self.intake.measured(numbers)
        alert = Alert(
            alert_id=new_uuid7(),
            rule=tidy.label(rule),
            message=tidy.label(message, MAX_METADATA_CHARS),
            opened_ns=time_ns(),
            severity=self._severity(severity),
            key=None if key is None else tidy.label(key),
            step=self.intake.step(step),
            score=numbers.get("score"),
            threshold=numbers.get("threshold"),
            rank=self.rank,
            attempt=self.attempt,
        )
        self._alert(alert, events.ALERT_RAISED, {"message": alert.message})
        return alert

    def resolve(self, alert: Alert) -> Alert:
        """Record that what an alert was raised for is over; return it as it is now."""
        closed = replace(alert, closed_ns=time_ns())
        self._alert(closed, events.ALERT_RESOLVED, {})
        return closed

    @_safely
    def define(
        self,
        key: str,
        *,
        unit: str | None = None,
        goal: Goal | None = None,
        description: str | None = None,
    ) -> None:
        """Say what a metric's numbers mean: its unit, and whether less or more is better."""
        trouble = key_trouble(key)
        if trouble is not None:
            raise UserError(f"{key!r:.100}: {trouble}", field="key")
        if goal not in (None, "min", "max"):
            raise UserError(f"goal={goal!r}: must be 'min' or 'max'", field="goal")
        tidy = Tidier()
        info = KeyInfo(
            key=key,
            unit=None if unit is None else tidy.text(unit, 1_000),
            goal=goal,
            description=None if description is None else tidy.text(description),
        )
        if not self._is_off:
            self._writer.put(info)

    @_safely
    def update_config(self, values: Mapping[str, object]) -> None:
        """Add to the run's configuration, or replace what is there by name."""
        tidy = Tidier()
        merged = {**self._record.config, **tidy.mapping(values)}
        self._record = replace(self._record, config=merged)
        if self._is_off:
            return
        self._writer.put(self._record)
        self._health.count("cut_texts", tidy.num_cut)

    def watch(self, watcher: Callable[[Batch], None]) -> Callable[[], None]:
        """Have a function called with each batch once it is committed, on the writer's thread.

        One that raises is counted and stays subscribed. Returns a function that ends it.
        """
        writer = self._writer
        writer.watchers = (*writer.watchers, watcher)

        def unwatch() -> None:
            writer.watchers = tuple(one for one in writer.watchers if one is not watcher)

        return unwatch

    def subscribe(self, pattern: str, handler: Callable[[Event], None]) -> Callable[[], None]:
        """Have a function called with each event whose name matches a shell pattern, as `watch`."""
        is_wanted = name_matcher(pattern)

        def tell(batch: Batch) -> None:
            for event in batch.events:
                if is_wanted(event.name):
                    handler(event)

        return self.watch(tell)

    # -------------------------------------------------------------------------------- its life

    def pause(self) -> None:
        """Stop the clock of active time; until `resume` nothing is recorded, only counted."""
        self._switch("paused", RunStatus.PAUSED, events.RUN_PAUSED)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._switch("active", RunStatus.RUNNING, events.RUN_RESUMED)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything recorded so far is committed; False where it is not in time."""
        return self._writer.flush(timeout_s)

    def finish(
        self, status: Literal["finished", "failed"] = "finished", *, exit_code: int | None = None
    ) -> None:
        """Write what waits and end the run; returns within 5 s whatever the store does.

        Idempotent. In a forked child only what the child recorded is written; the run goes on.
        """
        if not self.is_open:
            return
        if status not in ("finished", "failed"):
            error = f"status={shown(status)}: must be 'finished' or 'failed'; kept as failed"
            self.intake.mistake("status", UserError(error, field="status"))
            status = "failed"
        if self.is_child or self._is_off:
            self._attempt = replace(self._attempt, ended_ns=time_ns())  # in this process alone
        else:
            self._end(RunStatus(status), exit_code)
        self._is_recording = False
        if not self._is_off and not self._writer.close():
            lost = self._writer.num_waiting()
            self._health.warn_once(
                "finish",
                f"run {self.run_id}: not everything could be written before the end"
                f"{f' ({lost:,} records waited)' if lost else ''}: {self.trouble or 'store stuck'}",
            )
        if self._on_finish is not None:
            self._on_finish(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.finish("failed", exit_code=1)

    # ---------------------------------------------------------------------------------- inside

    @_safely
    def record_event(
        self,
        event: EventSpec | str,
        measurements: Metrics | None,
        *,
        metadata: Mapping[str, object] | None,
        step: int | None,
        times: tuple[int, int, int | None],
        ids: tuple[str | None, str | None, str | None],
    ) -> None:
        """Record an event with times (wall, monotonic, duration) and ids (trace, span, parent)."""
        name = event.name if isinstance(event, EventSpec) else str(event)
        given = measurements or {}
        error = check_emission(name, given)
        if error is not None:
            self.intake.mistake(f"event {name}", error)
        if not self._may_record():
            return
        tidy = Tidier()
        ts_ns, mono_ns, duration_ns = times
        trace_id, span_id, parent_id = ids
        self._put(
            Event(
                event_id=new_uuid7(),
                name=tidy.text(name, 1_000),
                ts_ns=ts_ns,
                mono_ns=mono_ns,
                duration_ns=duration_ns,
                step=self.intake.step(step),
                rank=self._attempt.rank,
                attempt=self._attempt.attempt,
                trace_id=trace_id,
                span_id=span_id,
                parent_id=parent_id,
                measurements=self.intake.measured(given),
                metadata=tidy.mapping(metadata),
            ),
            tidy,
        )

    def _put(self, record: Event | SampleText | Artifact | Alert, tidy: Tidier) -> None:
        if tidy.num_cut:
            self._health.count("cut_texts", tidy.num_cut)
            self._health.warn_once("cut", "a text was longer than is kept, and was cut")
        self._writer.put(record)
        if self._is_commit:
            self._acknowledge()

    def _acknowledge(self) -> None:
        # While the store fails nobody waits for it again and again.
        writer = self._writer
        timeout_s = writer.options.commit_s if writer.trouble is None else 0.0
        if not writer.flush(timeout_s):
            self._health.count("unacknowledged")
            self._health.warn_once(
                "commit", f"run {self.run_id}: a record is not durable yet; the recorder goes on"
            )

    def _alert(self, alert: Alert, event: EventSpec, metadata: dict[str, object]) -> None:
        if not self._may_record():
            return
        self._put(alert, Tidier())
        numbers = {"score": alert.score, "threshold": alert.threshold}
        self.event(
            event,
            {name: value for name, value in numbers.items() if value is not None},
            metadata={"rule": alert.rule, "key": alert.key, **metadata},
            step=alert.step,
        )

    def _severity(self, severity: Severity) -> Severity:
        if severity in get_args(Severity):
            return severity
        error = f"severity={shown(severity)}: must be one of {', '.join(get_args(Severity))}"
        self.intake.mistake("severity", UserError(error, field="severity"))
        return "warning"

    def _may_record(self) -> bool:
        if not self._is_recording:
            self._skip((None,))
        return self._is_recording

    def _skip(self, records: Collection[object]) -> None:
        if self._is_off:
            return
        number = len(records) if hasattr(records, "__len__") else 1
        if self.is_open:
            self._health.count("skipped_while_paused", number)
            return
        self._health.count("after_finish", number)
        self._health.warn_once(
            "after finish", f"run {self.run_id}: is finished; what comes now is not recorded"
        )

    def _switch(
        self, kind: Literal["active", "paused"], status: RunStatus, event: EventSpec
    ) -> None:
        if not self.is_open or self._attempt.status is status:
            return
        self._timeline.switch(kind)
        self._attempt = replace(self._attempt, status=status)
        if self._is_off:
            return
        self._is_recording = True
        self._mark(event)
        self._is_recording = kind == "active"
        self._writer.state_changed()

    def _end(self, status: RunStatus, exit_code: int | None) -> None:
        self._is_recording = True  # a paused run, too, records its end
        self._timeline.end()
        failed = status is RunStatus.FAILED
        self._mark(events.RUN_FAILED if failed else events.RUN_FINISHED, exit_code=exit_code)
        self._attempt = replace(
            self._attempt, status=status, ended_ns=time_ns(), exit_code=exit_code
        )

    def _mark(self, event: EventSpec, **metadata: object) -> None:
        times = self.times
        numbers = {"active_s": times.active_s, "paused_s": times.paused_s}
        known = {name: value for name, value in metadata.items() if value is not None}
        place = current_trace()
        self.record_event(
            event,
            numbers,
            metadata=known,
            step=self._step if self._step >= 0 else None,
            times=(time_ns(), time.monotonic_ns(), None),
            ids=(place.trace_id, place.span_id, None) if place else (None, None, None),
        )

    def announce(self) -> None:
        """Record that this writer began, or came to a run that existed."""
        resumed = self._attempt.resumed_from_step
        if self._attempt.attempt == 1 and self._attempt.rank == 0:
            self._mark(events.RUN_STARTED)
        else:
            self.event(
                events.RUN_REATTACHED,
                {} if resumed is None else {"resumed_from_step": resumed},
                metadata={"attempt": self.attempt, "rank": self.rank},
            )

    def _state(self) -> tuple[Attempt, list[Interval]]:
        return replace(self._attempt, health=self._health.counts()), self._timeline.so_far()
