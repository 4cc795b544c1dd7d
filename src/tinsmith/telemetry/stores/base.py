"""The contract of a store: what the writer thread and every reader may rely on.

The same suite of tests runs on each implementation (`tests/unit/telemetry/stores`). All of them

- are synchronous and thread-safe, and may be shared by the writer thread and readers;
- write each call in one transaction: all of it is there afterwards, or, when the call raises,
  nothing;
- raise `StoreError` when the disk, the file or the server fails, with `is_permanent` where trying
  again cannot help, and `UnknownNameError` for a run that they do not have;
- keep NaN and infinities as the values they are, in points and in measurements (the sign of a zero
  may get lost);
- survive a fork: in a child process they open connections of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

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
)
from tinsmith.telemetry.stores.lines import AttemptChoice

__all__ = ["Store"]


@runtime_checkable
class Store(Protocol):
    """Where runs are kept."""

    @property
    def url(self) -> str:
        """The address that opens this store again, without secrets."""
        ...

    # ---------------------------------------------------------------------------------- runs

    def put_run(self, record: RunRecord, *, replace: bool = True) -> bool:
        """Write what is known of a run, or, with `replace=False`, only if it is not there yet.

        Returns:
            Whether it was written; of two processes that create one run exactly one hears True.
        """
        ...

    def get_run(self, run_id: str) -> RunRecord:
        """Return a run, its `status` as `model.observed_status` tells it now.

        Raises:
            UnknownNameError: there is no such run.
        """
        ...

    def list_runs(self, where: RunFilter | None = None) -> list[RunRecord]:
        """Return the runs asked for (all by default), the newest first, statuses as observed."""
        ...

    def delete_run(self, run_id: str) -> None:
        """Delete a run with everything in it.

        Raises:
            UnknownNameError: there is no such run.
        """
        ...

    # ------------------------------------------------------------------------------- writers

    def begin_attempt(
        self,
        run_id: str,
        writer: WriterId,
        *,
        resumed_from_step: int | None = None,
        attempt: int | None = None,
    ) -> Attempt:
        """Register a writer, in the attempt that `stores.attempts.attempt_for` says.

        The check and the registration are one transaction: of two processes that ask for one rank
        at once, one is refused.

        Args:
            run_id: The run.
            writer: Who will write, and which rank.
            resumed_from_step: The last step of earlier attempts that still counts.
            attempt: The number, where the launcher knows it.

        Raises:
            UnknownNameError: there is no such run.
            WriterBusyError: a live process writes this rank.
            ConfigError: `attempt` is one of the past.
        """
        ...

    def put_attempt(self, run_id: str, attempt: Attempt) -> None:
        """Write an attempt by (attempt, rank): heartbeats, health, its end."""
        ...

    def attempts(self, run_id: str) -> list[Attempt]:
        """Return all attempts of all ranks, sorted by attempt and rank."""
        ...

    def put_interval(self, run_id: str, interval: Interval) -> None:
        """Write a stretch of active or paused time by (attempt, rank, index)."""
        ...

    def intervals(self, run_id: str) -> list[Interval]:
        """Return the stretches of time, sorted by attempt, rank and index."""
        ...

    # --------------------------------------------------------------------------------- keys

    def put_keys(self, run_id: str, infos: Iterable[KeyInfo]) -> None:
        """Say what keys mean; a key need not have points yet. What is None leaves what was said."""
        ...

    def keys(self, run_id: str) -> list[KeyInfo]:
        """Return every key that has points or was described, sorted by name."""
        ...

    # ---------------------------------------------------------------------------- the record

    def append(self, run_id: str, batch: Batch) -> Cursor:
        """Write a batch, all or nothing.

        A point replaces the one of the same (key, step, rank, attempt), an alert the one of its id,
        an artifact the one of its digest and name. An event or text whose id is there already is
        left alone, so that a batch sent twice is written once.

        Returns:
            The cursor behind the batch: a `tail` from there shows only what came later. Where other
            processes write too, it may lie behind some of theirs.
        """
        ...

    def tail(self, run_id: str, cursor: Cursor, limit: int = 10_000) -> tuple[Batch, Cursor]:
        """Return what was written after a cursor, in the order written, and the next cursor.

        At most `limit` of each kind; an empty batch says that the reader is up to date. A point or
        alert that was written again comes again, at its new place and with its new value; its old
        place is gone. No change is ever skipped, so that appending one store's tail to another
        copies a run, whatever was read before. Points come from all attempts.
        """
        ...

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
        """Return points sorted by key, step, rank and attempt.

        `names` of the result are among the keys asked, in their order.

        Args:
            run_id: The run.
            keys: Which keys, and the order in which they come; all by default, by name. A key
                without points is no error.
            first_step: Leave out what lies before it.
            last_step: Leave out what lies after it.
            ranks: Which ranks; all by default.
            attempt: "effective" for the line that counts (`stores.lines`), a number for the line
                of one attempt as it was, "all" for everything.
        """
        ...

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
        """Return events by time; with `limit` the newest ones of those, still by time.

        Args:
            run_id: The run.
            pattern: Shell pattern on names: `train.*`, `llm.request`; case matters.
            since_ns: The first time wanted.
            until_ns: The last time wanted.
            trace_id: Only events of this trace.
            limit: At most so many.
        """
        ...

    def samples(
        self, run_id: str, *, first_step: int | None = None, last_step: int | None = None
    ) -> list[SampleText]:
        """Return texts by step, then time."""
        ...

    def artifacts(self, run_id: str) -> list[Artifact]:
        """Return artifacts by time."""
        ...

    def alerts(self, run_id: str) -> list[Alert]:
        """Return alerts by the time they were opened, in their latest state."""
        ...

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
        """Return the roll-up rows of one level, sorted by key (as asked), bucket and rank."""
        ...

    def rollup_state(self, run_id: str) -> RollupState:
        """Return up to where the roll-ups are right; the default state before the first refresh."""
        ...

    def replace_rollups(
        self,
        run_id: str,
        rows: Iterable[RollupRow],
        emptied: Iterable[tuple[str, int, int, int]],
        state: RollupState,
        expected: RollupState,
    ) -> bool:
        """Write roll-up rows by (key, rank, level, bucket), and the state that they make right.

        Args:
            run_id: The run.
            rows: Rows that replace what was there.
            emptied: (key, rank, level, bucket) of rows to delete, whose points are gone.
            state: The new state.
            expected: The state that the refresh started from.

        Returns:
            False, and nothing is written, where another refresh came first.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections; idempotent. What was written stays."""
        ...
