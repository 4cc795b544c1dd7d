"""The store of a team: runs in a PostgreSQL database (15 or later), through psycopg 3.

Points come in by binary COPY into a staging table and an upsert from there, and go out as arrays.
Tables are those of `postgres_schema`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

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
    RunStatus,
    SampleText,
    WriterId,
    observed_status,
)
from tinsmith.telemetry.stores.attempts import attempt_for
from tinsmith.telemetry.stores.codec import (
    columns_of,
    decode_record,
    decode_run,
    encode_record,
    encode_run,
)
from tinsmith.telemetry.stores.lines import AttemptChoice, cuts_of, pick_line
from tinsmith.telemetry.stores.postgres_copy import POINT_COLUMNS, decode_array, encode_points
from tinsmith.telemetry.stores.postgres_link import Link
from tinsmith.telemetry.stores.postgres_schema import RECORDS, TAILS
from tinsmith.telemetry.stores.reading import name_matcher, select_runs, unknown_run
from tinsmith.telemetry.stores.timescale import compression_statement, find_timescale

__all__ = ["PostgresStore"]

Connection: TypeAlias = Any  # psycopg's, which is imported when it is needed
_Record: TypeAlias = Event | SampleText | Artifact | Alert
R = TypeVar("R", Event, SampleText, Artifact, Alert)

_LEAST, _MOST = -(2**63), 2**63 - 1
_POINTS_AN_ARRAY = 4_000_000
"""Read at once; a value of PostgreSQL has at most a gigabyte."""
_UPSERT = (
    "INSERT INTO telemetry_point (run_id, key_id, step, rank, attempt, ts_ns, value, seq) "
    "SELECT %s, key_id, step, rank, attempt, ts_ns, value, seq FROM telemetry_staging "
    "ON CONFLICT (run_id, key_id, step, rank, attempt) DO UPDATE SET "
    "ts_ns = excluded.ts_ns, value = excluded.value, seq = excluded.seq"
)
_ATTEMPT_COLUMNS = columns_of(Attempt)
_ROLLUP_COLUMNS = columns_of(RollupRow)
_TABLES_OF_A_RUN = (
    "telemetry_point",
    "telemetry_key",
    "telemetry_attempt",
    "telemetry_interval",
    "telemetry_rollup",
    *(table for table, _ in RECORDS.values()),
    "telemetry_run",
)


class PostgresStore:
    """Runs in a database.

    Args:
        address: `postgresql://USER@HOST:PORT/DATABASE`; libpq's variables fill in what is left out.
    """

    def __init__(self, address: str) -> None:
        self._link = Link(address)

    @property
    def url(self) -> str:
        return self._link.name

    # ---------------------------------------------------------------------------------- runs

    def put_run(self, record: RunRecord, *, replace: bool = True) -> bool:
        text = encode_run(record)
        conflict = (
            "UPDATE SET project = excluded.project, created_ns = excluded.created_ns, "
            "record = excluded.record"
            if replace
            else "NOTHING"
        )
        with self._link.writing() as db:
            done = db.execute(
                "INSERT INTO telemetry_run (run_id, project, created_ns, record) "
                f"VALUES (%s, %s, %s, %s) ON CONFLICT (run_id) DO {conflict}",
                (record.run_id, record.project, record.created_ns, text),
            )
            return done.rowcount > 0

    def get_run(self, run_id: str) -> RunRecord:
        with self._link.reading() as db:
            row = db.execute(
                "SELECT record FROM telemetry_run WHERE run_id = %s", (run_id,)
            ).fetchone()
            if row is None:
                raise _unknown(db, run_id)
            return _observed(row[0], _attempts(db, run_id))

    def list_runs(self, where: RunFilter | None = None) -> list[RunRecord]:
        project = None if where is None else where.project
        of_project = "(%s::text IS NULL OR project = %s)"
        with self._link.reading() as db:
            runs = db.execute(
                f"SELECT run_id, record FROM telemetry_run WHERE {of_project}", (project, project)
            ).fetchall()
            attempts = db.execute(
                f"SELECT run_id, {', '.join(_ATTEMPT_COLUMNS)} FROM telemetry_attempt "
                f"WHERE run_id IN (SELECT run_id FROM telemetry_run WHERE {of_project})",
                (project, project),
            ).fetchall()
        by_run: dict[str, list[Attempt]] = {}
        for run_id, *row in attempts:
            by_run.setdefault(run_id, []).append(_attempt(row))
        observed = [_observed(record, by_run.get(run_id, [])) for run_id, record in runs]
        return select_runs(observed, where)

    def delete_run(self, run_id: str) -> None:
        with self._link.writing() as db:
            _lock(db, run_id)
            for table in _TABLES_OF_A_RUN:
                db.execute(f"DELETE FROM {table} WHERE run_id = %s", (run_id,))

    # ------------------------------------------------------------------------------- writers

    def begin_attempt(
        self,
        run_id: str,
        writer: WriterId,
        *,
        resumed_from_step: int | None = None,
        attempt: int | None = None,
    ) -> Attempt:
        with self._link.writing() as db:
            _lock(db, run_id)
            now_ns = time.time_ns()
            begun = Attempt(
                attempt=attempt_for(_attempts(db, run_id), writer, now_ns, asked=attempt),
                started_ns=now_ns,
                heartbeat_ns=now_ns,
                resumed_from_step=resumed_from_step,
                **writer._asdict(),
            )
            _put_attempt(db, run_id, begun)
            return begun

    def put_attempt(self, run_id: str, attempt: Attempt) -> None:
        with self._link.writing() as db:
            _lock(db, run_id)
            _put_attempt(db, run_id, attempt)

    def attempts(self, run_id: str) -> list[Attempt]:
        with self._link.reading() as db:
            _require(db, run_id)
            return _attempts(db, run_id)

    def put_interval(self, run_id: str, interval: Interval) -> None:
        with self._link.writing() as db:
            _lock(db, run_id)
            db.execute(
                _upsert("telemetry_interval", columns_of(Interval), ("attempt", "rank", "index")),
                (run_id, *astuple(interval)),
            )

    def intervals(self, run_id: str) -> list[Interval]:
        columns = columns_of(Interval)
        with self._link.reading() as db:
            _require(db, run_id)
            rows = db.execute(
                f"SELECT {', '.join(columns)} FROM telemetry_interval WHERE run_id = %s "
                "ORDER BY attempt, rank, index",
                (run_id,),
            ).fetchall()
        return [Interval(**dict(zip(columns, row, strict=True))) for row in rows]

    # --------------------------------------------------------------------------------- keys

    def put_keys(self, run_id: str, infos: Iterable[KeyInfo]) -> None:
        with self._link.writing() as db:
            _lock(db, run_id)
            db.cursor().executemany(
                "INSERT INTO telemetry_key (run_id, key, unit, goal, description) "
                "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (run_id, md5(key)) DO UPDATE SET "
                "unit = coalesce(excluded.unit, telemetry_key.unit), "
                "goal = coalesce(excluded.goal, telemetry_key.goal), "
                "description = coalesce(excluded.description, telemetry_key.description)",
                [(run_id, *astuple(info)) for info in infos],
            )

    def keys(self, run_id: str) -> list[KeyInfo]:
        with self._link.reading() as db:
            _require(db, run_id)
            rows = db.execute(
                "SELECT key, unit, goal, description FROM telemetry_key WHERE run_id = %s",
                (run_id,),
            ).fetchall()
        infos = [KeyInfo(**dict(zip(columns_of(KeyInfo), row, strict=True))) for row in rows]
        return sorted(infos, key=lambda info: info.key)

    # ---------------------------------------------------------------------------- the record

    def append(self, run_id: str, batch: Batch) -> Cursor:
        with self._link.writing() as db:
            places = _lock(db, run_id)
            after = [places.points + _insert_points(db, run_id, batch.points, places.points)]
            groups = (batch.events, batch.samples, batch.artifacts, batch.alerts)
            for place, records in zip(places[1:], groups, strict=True):
                after.append(_insert_records(db, run_id, records, place))
            cursor = Cursor(*after)
            if cursor != places:
                told = ", ".join(f"{name} = %s" for name in TAILS)
                db.execute(f"UPDATE telemetry_run SET {told} WHERE run_id = %s", (*cursor, run_id))
            return cursor

    def tail(self, run_id: str, cursor: Cursor, limit: int = 10_000) -> tuple[Batch, Cursor]:
        with self._link.reading() as db:
            _require(db, run_id)
            rows = db.execute(
                "SELECT p.seq, key, step, rank, attempt, ts_ns, value FROM telemetry_point p "
                "JOIN telemetry_key k USING (key_id) WHERE p.run_id = %s AND p.seq > %s "
                "ORDER BY p.seq LIMIT %s",
                (run_id, cursor.points, limit),
                binary=True,
            ).fetchall()
            events, at_events = _page(db, run_id, Event, cursor.events, limit)
            samples, at_samples = _page(db, run_id, SampleText, cursor.samples, limit)
            artifacts, at_artifacts = _page(db, run_id, Artifact, cursor.artifacts, limit)
            alerts, at_alerts = _page(db, run_id, Alert, cursor.alerts, limit)
        batch = Batch(
            points=PointColumns.from_rows(row[1:] for row in rows),
            events=events,
            samples=samples,
            artifacts=artifacts,
            alerts=alerts,
        )
        at_points = rows[-1][0] if rows else cursor.points
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
        with self._link.reading() as db:
            _require(db, run_id)
            ids = _key_ids(db, run_id)
            wanted = [
                key for key in dict.fromkeys(sorted(ids) if keys is None else keys) if key in ids
            ]
            conditions = ["run_id = %s", "step BETWEEN %s AND %s", "key_id = ANY(%s)"]
            values: list[Any] = [
                run_id,
                _LEAST if first_step is None else first_step,
                _MOST if last_step is None else last_step,
                [ids[key] for key in wanted],
            ]
            if ranks is not None:
                conditions.append("rank = ANY(%s::integer[])")
                values.append(list(ranks))
            if isinstance(attempt, int):
                conditions.append("attempt = %s")
                values.append(attempt)
            arrays = ", ".join(f"array_send(array_agg({name}))" for name in POINT_COLUMNS)
            rows = db.execute(
                f"SELECT {arrays} FROM telemetry_point WHERE {' AND '.join(conditions)} "
                f"GROUP BY seq / {_POINTS_AN_ARRAY}",
                values,
                binary=True,
            ).fetchall()
            cuts = cuts_of(_attempts(db, run_id))
        if not rows:
            return PointColumns.empty()
        columns: dict[str, Any] = {  # Any: arrays of several types
            name: np.concatenate([decode_array(row[i], kind) for row in rows])
            for i, (name, kind) in enumerate(POINT_COLUMNS.items())
        }
        codes = np.zeros(max(ids.values()) + 1, dtype=np.int32)
        codes[[ids[key] for key in wanted]] = np.arange(len(wanted))
        key = codes[columns.pop("key_id")]
        found = PointColumns(names=tuple(wanted), key=key, **columns)
        return pick_line(found, cuts, attempt)

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
        conditions = ["run_id = %s", "ts_ns BETWEEN %s AND %s"]
        values: list[Any] = [
            run_id,
            _LEAST if since_ns is None else since_ns,
            _MOST if until_ns is None else until_ns,
        ]
        if trace_id is not None:
            conditions.append("trace_id = %s")
            values.append(trace_id)
        with self._link.reading() as db:
            _require(db, run_id)
            if pattern != "*":
                names = db.execute(
                    "SELECT DISTINCT name FROM telemetry_event WHERE run_id = %s", (run_id,)
                ).fetchall()
                conditions.append("name = ANY(%s)")
                values.append([name for (name,) in names if is_wanted(name)])
            rows = db.execute(
                f"SELECT {', '.join(columns_of(Event))} FROM telemetry_event "
                f"WHERE {' AND '.join(conditions)} "
                'ORDER BY ts_ns DESC, event_id COLLATE "C" DESC LIMIT %s',
                (*values, limit),
            ).fetchall()
        return [decode_record(Event, row) for row in reversed(rows)]

    def samples(
        self, run_id: str, *, first_step: int | None = None, last_step: int | None = None
    ) -> list[SampleText]:
        with self._link.reading() as db:
            _require(db, run_id)
            rows = db.execute(
                f"SELECT {', '.join(columns_of(SampleText))} FROM telemetry_sample "
                "WHERE run_id = %s AND step BETWEEN %s AND %s "
                'ORDER BY step, ts_ns, sample_id COLLATE "C"',
                (
                    run_id,
                    _LEAST if first_step is None else first_step,
                    _MOST if last_step is None else last_step,
                ),
            ).fetchall()
        return [decode_record(SampleText, row) for row in rows]

    def artifacts(self, run_id: str) -> list[Artifact]:
        with self._link.reading() as db:
            _require(db, run_id)
            order = 'ts_ns, digest COLLATE "C", name COLLATE "C"'
            return _all(db, run_id, Artifact, order)

    def alerts(self, run_id: str) -> list[Alert]:
        with self._link.reading() as db:
            _require(db, run_id)
            return _all(db, run_id, Alert, 'opened_ns, alert_id COLLATE "C"')

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
        columns = [*_ROLLUP_COLUMNS[:-1], "sketch" if with_sketches else "''::bytea"]
        with self._link.reading() as db:
            _require(db, run_id)
            rows = db.execute(
                f"SELECT {', '.join(columns)} FROM telemetry_rollup "
                "WHERE run_id = %s AND level = %s AND bucket BETWEEN %s AND %s "
                "AND md5(key) = ANY(ARRAY(SELECT md5(k) FROM unnest(%s::text[]) AS k)) "
                "AND (%s::bigint[] IS NULL OR rank = ANY(%s)) ORDER BY bucket, rank",
                (
                    run_id,
                    level,
                    _LEAST if first_bucket is None else first_bucket,
                    _MOST if last_bucket is None else last_bucket,
                    list(keys),
                    *[None if ranks is None else list(ranks)] * 2,
                ),
                binary=True,
            ).fetchall()
        order = {key: position for position, key in enumerate(keys)}
        return sorted(map(RollupRow._make, rows), key=lambda row: order[row.key])

    def rollup_state(self, run_id: str) -> RollupState:
        with self._link.reading() as db:
            return _rollup_state(db, run_id)

    def replace_rollups(
        self,
        run_id: str,
        rows: Iterable[RollupRow],
        emptied: Iterable[tuple[str, int, int, int]],
        state: RollupState,
        expected: RollupState,
    ) -> bool:
        with self._link.writing() as db:
            _lock(db, run_id)
            if _rollup_state(db, run_id) != expected:
                return False
            cursor = db.cursor()
            cursor.executemany(
                "DELETE FROM telemetry_rollup WHERE run_id = %s AND md5(key) = md5(%s) "
                "AND rank = %s AND level = %s AND bucket = %s",
                [(run_id, *place) for place in emptied],
            )
            place = ("level", "md5(key)", "bucket", "rank")
            cursor.executemany(
                _upsert("telemetry_rollup", _ROLLUP_COLUMNS, place),
                [(run_id, *row) for row in rows],
            )
            text = json.dumps({"cursor": state.cursor, "cuts": dict(state.cuts)})
            db.execute(
                "UPDATE telemetry_run SET rollup_state = %s WHERE run_id = %s", (text, run_id)
            )
            return True

    # ---------------------------------------------------------------------------- maintenance

    def compress(self, older_than_step: int) -> int:
        """Compress the points of steps before one, where TimescaleDB can; they stay writable.

        Returns:
            Number of chunks; 0 without the extension, or with its Apache edition.
        """
        with self._link.writing() as db:
            timescale = find_timescale(db)
            if timescale is None or not timescale.has_compression:
                return 0
            return len(db.execute(compression_statement(older_than_step)).fetchall())

    def health(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self._link.close()


# ---------------------------------------------------------------------------------------- reading


def _unknown(db: Connection, run_id: str) -> Exception:
    rows = db.execute("SELECT run_id FROM telemetry_run ORDER BY created_ns DESC").fetchall()
    return unknown_run(run_id, [row[0] for row in rows])


def _require(db: Connection, run_id: str) -> None:
    if db.execute("SELECT 1 FROM telemetry_run WHERE run_id = %s", (run_id,)).fetchone() is None:
        raise _unknown(db, run_id)


def _observed(text: str, attempts: list[Attempt]) -> RunRecord:
    record = decode_run(text)
    return replace(record, status=observed_status(record, attempts, time.time_ns()))


def _attempt(row: Sequence[Any]) -> Attempt:
    said = dict(zip(_ATTEMPT_COLUMNS, row, strict=True))
    said["status"] = RunStatus(said["status"])
    said["health"] = json.loads(said["health"])
    return Attempt(**said)


def _attempts(db: Connection, run_id: str) -> list[Attempt]:
    rows = db.execute(
        f"SELECT {', '.join(_ATTEMPT_COLUMNS)} FROM telemetry_attempt WHERE run_id = %s "
        "ORDER BY attempt, rank",
        (run_id,),
    ).fetchall()
    return [_attempt(row) for row in rows]


def _key_ids(db: Connection, run_id: str) -> dict[str, int]:
    rows = db.execute("SELECT key, key_id FROM telemetry_key WHERE run_id = %s", (run_id,))
    return dict(rows.fetchall())


def _page(
    db: Connection, run_id: str, kind: type[R], place: int, limit: int
) -> tuple[tuple[R, ...], int]:
    rows = db.execute(
        f"SELECT seq, {', '.join(columns_of(kind))} FROM {RECORDS[kind][0]} "
        "WHERE run_id = %s AND seq > %s ORDER BY seq LIMIT %s",
        (run_id, place, limit),
    ).fetchall()
    found = tuple(decode_record(kind, row[1:]) for row in rows)
    return found, rows[-1][0] if rows else place


def _all(db: Connection, run_id: str, kind: type[R], order: str) -> list[R]:
    rows = db.execute(
        f"SELECT {', '.join(columns_of(kind))} FROM {RECORDS[kind][0]} WHERE run_id = %s "
        f"ORDER BY {order}",
        (run_id,),
    ).fetchall()
    return [decode_record(kind, row) for row in rows]


def _rollup_state(db: Connection, run_id: str) -> RollupState:
    row = db.execute(
        "SELECT rollup_state FROM telemetry_run WHERE run_id = %s", (run_id,)
    ).fetchone()
    if row is None:
        raise _unknown(db, run_id)
    if row[0] is None:
        return RollupState()
    said = json.loads(row[0])
    cuts = {int(attempt): step for attempt, step in said["cuts"].items()}
    return RollupState(cursor=said["cursor"], cuts=cuts)


# ---------------------------------------------------------------------------------------- writing


def _lock(db: Connection, run_id: str) -> Cursor:
    """Keep other writers of a run out until this transaction ends; returns its counters."""
    row = db.execute(
        f"SELECT {', '.join(TAILS)} FROM telemetry_run WHERE run_id = %s FOR UPDATE", (run_id,)
    ).fetchone()
    if row is None:
        raise _unknown(db, run_id)
    return Cursor(*row)


def _upsert(table: str, columns: Sequence[str], place: Sequence[str]) -> str:
    names = ("run_id", *columns)
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))}) "
        f"ON CONFLICT (run_id, {', '.join(place)}) DO UPDATE SET {changed}"
    )


def _put_attempt(db: Connection, run_id: str, attempt: Attempt) -> None:
    *plain, health = (getattr(attempt, name) for name in _ATTEMPT_COLUMNS)
    db.execute(
        _upsert("telemetry_attempt", _ATTEMPT_COLUMNS, ("attempt", "rank")),
        (run_id, *plain, json.dumps(dict(health))),
    )


def _insert_points(db: Connection, run_id: str, points: PointColumns, place: int) -> int:
    """Upsert points, numbered from a place on; returns how many numbers they took."""
    if len(points) == 0:
        return 0
    ids = _made_key_ids(db, run_id, points.names)
    points = _last_writings(points)
    key_id = np.asarray([ids[name] for name in points.names])[points.key]
    columns = (key_id, points.step, points.rank, points.attempt, points.ts_ns, points.value)
    seq = np.arange(place + 1, place + len(points) + 1)
    with db.cursor().copy("COPY telemetry_staging FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(encode_points(columns, seq))
    db.execute(_UPSERT, (run_id,))
    return len(points)


def _made_key_ids(db: Connection, run_id: str, names: Sequence[str]) -> dict[str, int]:
    ids = _key_ids(db, run_id)
    unknown = [(run_id, name) for name in names if name not in ids]
    if unknown:
        db.cursor().executemany(
            "INSERT INTO telemetry_key (run_id, key) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            unknown,
        )
        ids = _key_ids(db, run_id)
    return ids


def _last_writings(points: PointColumns) -> PointColumns:
    """Leave out what the same batch writes again: an upsert takes each row once."""
    place = (points.attempt, points.rank, points.step, points.key)
    order = np.lexsort((np.arange(len(points)), *place))
    is_last = np.zeros(len(points), np.bool_)
    is_last[-1] = True
    for column in place:
        in_order = column[order]
        is_last[:-1] |= in_order[1:] != in_order[:-1]
    return points.take(np.sort(order[is_last]))


def _insert_records(db: Connection, run_id: str, records: Sequence[_Record], place: int) -> int:
    """Write records of one kind, numbered from a place on; returns the last number in use."""
    if not records:
        return place
    kind = type(records[0])
    table, identity = RECORDS[kind]
    replaces = kind in (Artifact, Alert)
    listed = list(records) if replaces else list(reversed(records))
    # By identity: of what is replaced the last counts, of what is written once the first.
    by_identity = {tuple(getattr(one, name) for name in identity): one for one in listed}
    kept = set(map(id, by_identity.values()))
    chosen = [one for one in records if id(one) in kept]
    match = " AND ".join(f"{name} = %s" for name in identity)
    cursor = db.cursor()
    if replaces:
        cursor.executemany(
            f"DELETE FROM {table} WHERE run_id = %s AND {match}",
            [(run_id, *place_of) for place_of in by_identity],
        )
    else:
        name = identity[0]
        known = db.execute(
            f"SELECT {name} FROM {table} WHERE run_id = %s AND {name} = ANY(%s)",
            (run_id, [getattr(one, name) for one in chosen]),
        ).fetchall()
        there = {row[0] for row in known}
        chosen = [one for one in chosen if getattr(one, name) not in there]
    names = ("run_id", "seq", *columns_of(kind))
    cursor.executemany(
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})",
        [(run_id, place + i + 1, *encode_record(one)) for i, one in enumerate(chosen)],
    )
    return place + len(chosen)
