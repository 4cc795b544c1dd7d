"""Records for tests: what does not matter to a test has a default here."""

import os
from typing import Any

from tinsmith.core.ids import new_uuid7
from tinsmith.telemetry.model import (
    Batch,
    Event,
    PointColumns,
    RollupRow,
    RunRecord,
    SampleText,
    WriterId,
)
from tinsmith.telemetry.processes import this_writer
from tinsmith.telemetry.stores import Store

Row = tuple[str, int, int, int, int, float]


def run_record(**fields: Any) -> RunRecord:
    known = {"run_id": new_uuid7(), "project": "p", "name": "n", "created_ns": 1_000}
    return RunRecord(**{**known, **fields})


def stored_run(store: Store, **fields: Any) -> str:
    """Put a run into a store and return its id."""
    record = run_record(**fields)
    store.put_run(record)
    return record.run_id


def points(*rows: tuple[Any, ...]) -> Batch:
    """A batch of points (key, step, value[, rank[, attempt[, ts_ns]]])."""
    full: list[Row] = []
    for row in rows:
        key, step, value, rank, attempt, ts_ns = (*row, *(0, 1, 5)[len(row) - 3 :])
        full.append((key, step, rank, attempt, ts_ns, value))
    return Batch(points=PointColumns.from_rows(full))


def triples(found: PointColumns) -> list[tuple[str, int, float]]:
    return [(key, step, value) for key, step, _, _, _, value in found.rows()]


def event(name: str = "train.step", **fields: Any) -> Event:
    known = {"event_id": new_uuid7(), "name": name, "ts_ns": 10, "mono_ns": 3}
    return Event(**{**known, **fields})


def sample(**fields: Any) -> SampleText:
    known = {"sample_id": new_uuid7(), "step": 1, "ts_ns": 2, "prompt": "2+2=", "completion": "4"}
    return SampleText(**{**known, **fields})


def rollup_row(**fields: Any) -> RollupRow:
    numbers = {"n": 2, "total": 3.0, "mean": 1.5, "m2": 0.5}
    odd = {"num_nan": 1, "num_pos_inf": 0, "num_neg_inf": 2, "nonfinite_step": 7}
    edges = {"minimum": 1.0, "maximum": 2.0, "first": 1.0, "last": 2.0}
    steps = {"minimum_step": 3, "maximum_step": 4, "first_step": 3, "last_step": 4}
    place = {"key": "loss", "rank": 0, "level": 100, "bucket": 0, "sketch": b"\x00\x01"}
    return RollupRow(**{**numbers, **odd, **edges, **steps, **place, **fields})


def dead_writer(rank: int = 0) -> WriterId:
    """A writer of this machine whose process has ended."""
    return this_writer(rank)._replace(process_start="1")


def other_machine(rank: int = 0) -> WriterId:
    return WriterId(rank, os.getpid(), "somewhere-else", "5")
