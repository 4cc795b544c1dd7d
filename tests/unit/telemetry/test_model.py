"""What the recorder keeps: statuses and times as read, columns, ids that sort."""

from dataclasses import replace

import numpy as np

from tests.unit.telemetry.records import other_machine, run_record
from tinsmith.core.ids import new_uuid7
from tinsmith.telemetry.model import (
    Attempt,
    Interval,
    PointColumns,
    RunStatus,
    RunTimes,
    observed_status,
    run_times,
)

NOW = 100 * 10**9
LIVING = Attempt(attempt=1, started_ns=0, heartbeat_ns=NOW, **other_machine()._asdict())
ENDED = replace(LIVING, status=RunStatus.FINISHED, ended_ns=NOW)


def status(*attempts: Attempt) -> RunStatus:
    return observed_status(run_record(), attempts, NOW)


def test_a_run_runs_while_any_rank_of_its_last_attempt_does() -> None:
    assert status() is RunStatus.CREATED
    assert status(ENDED, replace(LIVING, rank=1)) is RunStatus.RUNNING
    paused = replace(LIVING, status=RunStatus.PAUSED)
    assert status(paused, replace(LIVING, rank=1)) is RunStatus.RUNNING
    assert status(paused, replace(ENDED, rank=1)) is RunStatus.PAUSED


def test_a_failed_rank_makes_the_run_failed_and_a_silent_one_crashed() -> None:
    failed = replace(ENDED, status=RunStatus.FAILED, rank=1)
    silent = replace(LIVING, heartbeat_ns=NOW - 31 * 10**9, rank=2)
    assert status(ENDED, failed, silent) is RunStatus.FAILED
    assert status(ENDED, silent) is RunStatus.CRASHED
    assert status(ENDED, replace(silent, heartbeat_ns=NOW - 29 * 10**9)) is RunStatus.RUNNING
    assert status(ENDED) is RunStatus.FINISHED


def test_only_the_last_attempt_counts_for_the_status() -> None:
    crashed = replace(LIVING, heartbeat_ns=0)
    assert status(crashed, replace(ENDED, attempt=2)) is RunStatus.FINISHED


def test_times_take_the_longest_rank_and_add_up_attempts() -> None:
    began = {"attempt": 1, "rank": 0, "index": 0, "started_ns": 0, "ended_ns": None}
    base = Interval(kind="active", duration_ns=2 * 10**9, **began)
    other = replace(base, rank=1, duration_ns=10**9)
    paused = replace(base, index=1, kind="paused", duration_ns=5 * 10**8)
    again = replace(base, attempt=2, duration_ns=3 * 10**9)
    assert run_times([other, base, paused, again]) == RunTimes(5.5, 5.0, 0.5)
    assert run_times([]) == RunTimes(0.0, 0.0, 0.0)


def test_rows_become_columns_and_rows_again() -> None:
    rows = [("b", 1, 0, 1, 5, 1.5), ("a", 2, 1, 2, 6, 2.5), ("b", 3, 0, 1, 7, 3.5)]
    columns = PointColumns.from_rows(rows)
    assert columns.names == ("b", "a")
    assert columns.rows() == rows
    assert columns.take(np.array([2, 0])).rows() == [rows[2], rows[0]]
    assert PointColumns.from_rows([]).rows() == []


def test_uuid7_ids_sort_by_the_time_they_were_made() -> None:
    ids = [new_uuid7() for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(one[14] == "7" and one[19] in "89ab" for one in ids)
    heads = [one[:18] for one in ids]  # time, down to a 4096th of a millisecond
    assert heads == sorted(heads)
