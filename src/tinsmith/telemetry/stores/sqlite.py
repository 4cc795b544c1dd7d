"""The default store: one folder of runs, in it one SQLite file a run, in WAL mode.

    <root>/<project>/<run_id>/run.sqlite

Many processes may write one run, and read it meanwhile. What was committed survives the death of
any process; a power cut may take the last commits, never the file.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from sqlite3 import Connection
from sqlite3 import Cursor as SqliteCursor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinsmith.core.errors import UserError
from tinsmith.core.ids import content_hash
from tinsmith.telemetry.errors import StoreError, TelemetryWarning
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
from tinsmith.telemetry.stores.reading import name_matcher, select_runs, unknown_run
from tinsmith.telemetry.stores.sqlite_file import (
    BUSY_TIMEOUT_S,
    FILE_NAME,
    RunFile,
    create_run_folder,
)
from tinsmith.telemetry.stores.sqlite_schema import insert_statement

__all__ = ["SqliteStore", "folder_name"]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_INSERT_POINT = (
    "INSERT OR REPLACE INTO point (key_id, step, rank, attempt, ts_ns, value) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_INSERT_EVENT = insert_statement("event", Event, "IGNORE")
_INSERT_SAMPLE = insert_statement("sample", SampleText, "IGNORE")
_INSERT_ARTIFACT = insert_statement("artifact", Artifact, "REPLACE")
_INSERT_ALERT = insert_statement("alert", Alert, "REPLACE")
_ROLLUP_COLUMNS = columns_of(RollupRow)[:-1]
_INSERT_ROLLUP = (
    f"INSERT OR REPLACE INTO rollup ({', '.join(_ROLLUP_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(_ROLLUP_COLUMNS))})"
)
_INSERT_SKETCH = (
    "INSERT OR REPLACE INTO rollup_sketch (key, rank, level, bucket, sketch) VALUES (?, ?, ?, ?, ?)"
)
_INSERT_ATTEMPT = insert_statement("attempt", Attempt, "REPLACE")
_INSERT_INTERVAL = insert_statement("interval", Interval, "REPLACE").replace(" index,", ' "index",')

_POINT = np.dtype(
    {
        "names": ["key_id", "step", "rank", "attempt", "ts_ns", "value"],
        "formats": ["i8", "i8", "i4", "i4", "i8", "f8"],
    }
)
_POINT_COLUMNS = ("step", "rank", "attempt", "ts_ns", "value")
_ROWS_A_PAGE = 100_000
_LEAST, _MOST = -(2**63), 2**63 - 1  # of a column of whole numbers

R = TypeVar("R", Event, SampleText, Artifact, Alert)


class SqliteStore:
    """Runs as SQLite files under a folder.

    Args:
        root: The folder; made when the first run is.
        busy_timeout_s: How long a transaction waits for those of other processes.
        max_open_files: How many runs' files stay open after they were used.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        max_open_files: int = 64,
    ) -> None:
        self.root = Path(root).expanduser().absolute()
        self._busy_timeout_s = busy_timeout_s
        self._max_open_files = max_open_files
        self._files: dict[str, RunFile] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"sqlite://{self.root.as_posix()}"

    # ---------------------------------------------------------------------------------- runs

    def put_run(self, record: RunRecord, *, replace: bool = True) -> bool:
        text = encode_run(record)
        folder = self._folder(record.run_id)
        if folder is None:
            if not _RUN_ID.fullmatch(record.run_id):
                raise UserError(
                    f"run_id={record.run_id!r}: must be 1 to 128 letters, digits, dots, dashes "
                    "and underscores, and begin with a letter or digit",
                    field="run_id",
                )
            create_run_folder(self.root / folder_name(record.project) / record.run_id)
        with self._file(record.run_id).writing() as db:
            verb = "REPLACE" if replace else "IGNORE"
            done = db.execute(
                f"INSERT OR {verb} INTO run (run_id, record) VALUES (?, ?)", (record.run_id, text)
            )
            return done.rowcount > 0

    def get_run(self, run_id: str) -> RunRecord:
        with self._file(run_id).reading() as db:
            return self._observed(db, run_id)

    def list_runs(self, where: RunFilter | None = None) -> list[RunRecord]:
        return select_runs(self._all_runs(), where)

    def delete_run(self, run_id: str) -> None:
        file = self._file(run_id)
        with self._lock:
            self._files.pop(run_id, None)
        file.close()
        try:
            # Renamed first, so that a half-deleted run is not found by anybody.
            doomed = file.path.parent.with_name(f".{run_id}.deleted")
            file.path.parent.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            raise StoreError(
                f"folder={str(file.path.parent)!r}: cannot be deleted: {error}", field="folder"
            ) from error

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run, where what belongs to it may be put, too.

        Raises:
            UnknownNameError: there is no such run.
        """
        return self._file(run_id).path.parent

    def _all_runs(self) -> Iterator[RunRecord]:
        for path in sorted(self.root.glob(f"*/*/{FILE_NAME}")):
            run_id = path.parent.name
            if run_id.startswith("."):
                continue
            with self._lock:
                known = self._files.get(run_id)
            file = known or RunFile(path, self._busy_timeout_s)
            try:
                with file.reading() as db:
                    yield self._observed(db, run_id)
            except StoreError as error:
                # One bad file must not hide the others.
                warnings.warn(f"run {run_id} is left out: {error}", TelemetryWarning, stacklevel=4)
            except LookupError:  # made, and not filled yet; or deleted meanwhile
                pass
            finally:
                if known is None:
                    file.close()

    def _observed(self, db: Connection, run_id: str) -> RunRecord:
        row = db.execute("SELECT record FROM run").fetchone()
        if row is None:
            raise self._unknown(run_id)
        record = decode_run(row[0])
        return replace(record, status=observed_status(record, _attempts(db), time.time_ns()))

    def _file(self, run_id: str) -> RunFile:
        with self._lock:
            file = self._files.pop(run_id, None)
            if file is not None:
                self._files[run_id] = file  # the most recently used are last
                return file
        folder = self._folder(run_id)
        if folder is None:
            raise self._unknown(run_id)
        with self._lock:
            file = self._files.setdefault(run_id, RunFile(folder / FILE_NAME, self._busy_timeout_s))
            surplus = [self._files.pop(old) for old in list(self._files)[: -self._max_open_files]]
        for old in surplus:
            old.close()
        return file

    def _folder(self, run_id: str) -> Path | None:
        if not _RUN_ID.fullmatch(run_id):
            return None
        found = self.root.glob(f"*/{run_id}/{FILE_NAME}")
        return next((path.parent for path in found), None)

    def _unknown(self, run_id: str) -> Exception:
        known = [path.parent.name for path in self.root.glob(f"*/*/{FILE_NAME}")]
        return unknown_run(run_id, sorted(known, reverse=True))

    # ------------------------------------------------------------------------------- writers

    def begin_attempt(
        self,
        run_id: str,
        writer: WriterId,
        *,
        resumed_from_step: int | None = None,
        attempt: int | None = None,
    ) -> Attempt:
        with self._file(run_id).writing() as db:
            now_ns = time.time_ns()
            begun = Attempt(
                attempt=attempt_for(_attempts(db), writer, now_ns, asked=attempt),
                started_ns=now_ns,
                heartbeat_ns=now_ns,
                resumed_from_step=resumed_from_step,
                **writer._asdict(),
            )
            _put_attempt(db, begun)
            return begun

    def put_attempt(self, run_id: str, attempt: Attempt) -> None:
        with self._file(run_id).writing() as db:
            _put_attempt(db, attempt)

    def attempts(self, run_id: str) -> list[Attempt]:
        with self._file(run_id).reading() as db:
            return _attempts(db)

    def put_interval(self, run_id: str, interval: Interval) -> None:
        with self._file(run_id).writing() as db:
            db.execute(_INSERT_INTERVAL, astuple(interval))

    def intervals(self, run_id: str) -> list[Interval]:
        with self._file(run_id).reading() as db:
            rows = db.execute('SELECT * FROM interval ORDER BY attempt, rank, "index"')
            return [Interval(**_named(Interval, row)) for row in rows]

    # --------------------------------------------------------------------------------- keys

    def put_keys(self, run_id: str, infos: Iterable[KeyInfo]) -> None:
        with self._file(run_id).writing() as db:
            db.executemany(
                "INSERT INTO key (key, unit, goal, description) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET unit = coalesce(excluded.unit, unit), "
                "goal = coalesce(excluded.goal, goal), "
                "description = coalesce(excluded.description, description)",
                [astuple(info) for info in infos],
            )

    def keys(self, run_id: str) -> list[KeyInfo]:
        with self._file(run_id).reading() as db:
            rows = db.execute("SELECT key, unit, goal, description FROM key").fetchall()
        infos = [KeyInfo(**_named(KeyInfo, row)) for row in rows]
        return sorted(infos, key=lambda info: info.key)

    # ---------------------------------------------------------------------------- the record

    def append(self, run_id: str, batch: Batch) -> Cursor:
        file = self._file(run_id)
        with file.writing() as db:
            if len(batch.points):
                _insert_points(db, file.key_ids, batch.points)
            for statement, records in (
                (_INSERT_EVENT, batch.events),
                (_INSERT_SAMPLE, batch.samples),
                (_INSERT_ARTIFACT, batch.artifacts),
                (_INSERT_ALERT, batch.alerts),
            ):
                if records:
                    db.executemany(statement, map(encode_record, records))
            return Cursor(*(_last_place(db, table) for table in _TAILS))

    def tail(self, run_id: str, cursor: Cursor, limit: int = 10_000) -> tuple[Batch, Cursor]:
        with self._file(run_id).reading() as db:
            rows = db.execute(
                "SELECT seq, key, step, rank, attempt, ts_ns, value FROM point JOIN key USING "
                "(key_id) WHERE seq > ? ORDER BY seq LIMIT ?",
                (cursor.points, limit),
            ).fetchall()
            events, at_events = _page(db, Event, cursor.events, limit)
            samples, at_samples = _page(db, SampleText, cursor.samples, limit)
            artifacts, at_artifacts = _page(db, Artifact, cursor.artifacts, limit)
            alerts, at_alerts = _page(db, Alert, cursor.alerts, limit)
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
        with self._file(run_id).reading() as db:
            ids = dict(db.execute("SELECT key, key_id FROM key").fetchall())
            wanted = [
                key for key in dict.fromkeys(sorted(ids) if keys is None else keys) if key in ids
            ]
            cursor = db.execute(
                "SELECT key_id, step, rank, attempt, ts_ns, value FROM point "
                "WHERE key_id IN (SELECT value FROM json_each(?1)) "
                "AND step BETWEEN ?2 AND ?3 "  # plain bounds, for which it uses the index
                "AND (?4 IS NULL OR rank IN (SELECT value FROM json_each(?4))) "
                "AND (?5 IS NULL OR attempt = ?5)",
                (
                    json.dumps([ids[key] for key in wanted]),
                    _LEAST if first_step is None else first_step,
                    _MOST if last_step is None else last_step,
                    None if ranks is None else json.dumps(list(ranks)),
                    attempt if isinstance(attempt, int) else None,
                ),
            )
            rows = _table_of(cursor)
            cuts = cuts_of(_attempts(db))
        if len(rows) == 0:
            return PointColumns.empty()
        codes = np.zeros(max(ids.values()) + 1, dtype=np.int32)
        codes[[ids[key] for key in wanted]] = np.arange(len(wanted))
        columns = {name: np.ascontiguousarray(rows[name]) for name in _POINT_COLUMNS}
        found = PointColumns(names=tuple(wanted), key=codes[rows["key_id"]], **columns)
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
        with self._file(run_id).reading() as db:
            names = [name for (name,) in db.execute("SELECT DISTINCT name FROM event")]
            rows = db.execute(
                f"SELECT {', '.join(columns_of(Event))} FROM event "
                "WHERE (?1 OR name IN (SELECT value FROM json_each(?2))) "
                "AND (?3 IS NULL OR ts_ns >= ?3) AND (?4 IS NULL OR ts_ns <= ?4) "
                "AND (?5 IS NULL OR trace_id = ?5) "
                "ORDER BY ts_ns DESC, event_id DESC LIMIT ?6",
                (
                    pattern == "*",
                    json.dumps([name for name in names if is_wanted(name)]),
                    since_ns,
                    until_ns,
                    trace_id,
                    -1 if limit is None else limit,
                ),
            ).fetchall()
        return [decode_record(Event, row) for row in reversed(rows)]

    def samples(
        self, run_id: str, *, first_step: int | None = None, last_step: int | None = None
    ) -> list[SampleText]:
        where = "(?1 IS NULL OR step >= ?1) AND (?2 IS NULL OR step <= ?2)"
        bounds = (first_step, last_step)
        with self._file(run_id).reading() as db:
            return _all(db, SampleText, f"WHERE {where} ORDER BY step, ts_ns, sample_id", bounds)

    def artifacts(self, run_id: str) -> list[Artifact]:
        with self._file(run_id).reading() as db:
            return _all(db, Artifact, "ORDER BY ts_ns, digest, name")

    def alerts(self, run_id: str) -> list[Alert]:
        with self._file(run_id).reading() as db:
            return _all(db, Alert, "ORDER BY opened_ns, alert_id")

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
        columns = ", ".join([*_ROLLUP_COLUMNS, "sketch" if with_sketches else "x''"])
        source = "rollup NATURAL JOIN rollup_sketch" if with_sketches else "rollup"
        with self._file(run_id).reading() as db:
            rows = db.execute(
                f"SELECT {columns} FROM {source} "
                "WHERE level = ?1 AND key IN (SELECT value FROM json_each(?2)) "
                "AND bucket BETWEEN ?3 AND ?4 "
                "AND (?5 IS NULL OR rank IN (SELECT value FROM json_each(?5))) "
                "ORDER BY key, bucket, rank",
                (
                    level,
                    json.dumps(list(keys)),
                    _LEAST if first_bucket is None else first_bucket,
                    _MOST if last_bucket is None else last_bucket,
                    None if ranks is None else json.dumps(list(ranks)),
                ),
            ).fetchall()
        found = [RollupRow._make(_with_nan(row) if None in row else row) for row in rows]
        order = {key: position for position, key in enumerate(keys)}
        return sorted(found, key=lambda row: order[row.key]) if len(order) > 1 else found

    def rollup_state(self, run_id: str) -> RollupState:
        with self._file(run_id).reading() as db:
            return _rollup_state(db)

    def replace_rollups(
        self,
        run_id: str,
        rows: Iterable[RollupRow],
        emptied: Iterable[tuple[str, int, int, int]],
        state: RollupState,
        expected: RollupState,
    ) -> bool:
        with self._file(run_id).writing() as db:
            if _rollup_state(db) != expected:
                return False
            gone, written = list(emptied), list(rows)
            for table in ("rollup", "rollup_sketch"):
                db.executemany(
                    f"DELETE FROM {table} WHERE key = ? AND rank = ? AND level = ? AND bucket = ?",
                    gone,
                )
            db.executemany(_INSERT_ROLLUP, [row[:-1] for row in written])
            db.executemany(_INSERT_SKETCH, [(*row[:4], row.sketch) for row in written])
            text = json.dumps({"cursor": state.cursor, "cuts": dict(state.cuts)})
            db.execute("INSERT OR REPLACE INTO state VALUES ('rollups', ?)", (text,))
            return True

    def close(self) -> None:
        with self._lock:
            files = list(self._files.values())
            self._files.clear()
        for file in files:
            file.close()


_TAILS = ("point", "event", "sample", "artifact", "alert")
_TABLES = {Event: "event", SampleText: "sample", Artifact: "artifact", Alert: "alert"}


def folder_name(project: str) -> str:
    """Return the folder of a project: its name where that is plain, else a slug and a hash.

    Example:
        >>> folder_name("math-rl")
        'math-rl'
        >>> folder_name("Math/RL")
        'math-rl-a8da2204'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-")[:64]
    if slug and slug == project:
        return slug
    return f"{slug or 'project'}-{content_hash(project.encode('utf-8', 'surrogatepass'))[:8]}"


def _insert_points(db: Connection, key_ids: dict[str, int], points: PointColumns) -> None:
    unknown = [name for name in points.names if name not in key_ids]
    if unknown:
        db.executemany("INSERT OR IGNORE INTO key (key) VALUES (?)", [(name,) for name in unknown])
        asked = json.dumps(unknown)
        key_ids.update(
            db.execute(
                "SELECT key, key_id FROM key WHERE key IN (SELECT value FROM json_each(?))",
                (asked,),
            )
        )
    ids = np.asarray([key_ids[name] for name in points.names])[points.key]
    columns = (ids, points.step, points.rank, points.attempt, points.ts_ns, points.value)
    # SQLite has no NaN: binding one writes NULL, which is how this column says it.
    db.executemany(_INSERT_POINT, zip(*(column.tolist() for column in columns), strict=True))


def _table_of(cursor: SqliteCursor) -> NDArray[np.void]:
    """Return rows of points as one table, a page at a time: as objects they are ten times more."""
    pages = [np.empty(0, _POINT)]
    while page := cursor.fetchmany(_ROWS_A_PAGE):
        pages.append(np.array(page, dtype=_POINT))  # None becomes NaN
    return np.concatenate(pages)


def _last_place(db: Connection, table: str) -> int:
    return db.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchone()[0]


def _page(db: Connection, kind: type[R], place: int, limit: int) -> tuple[tuple[R, ...], int]:
    rows = db.execute(
        f"SELECT seq, {', '.join(columns_of(kind))} FROM {_TABLES[kind]} WHERE seq > ? "
        "ORDER BY seq LIMIT ?",
        (place, limit),
    ).fetchall()
    found = tuple(decode_record(kind, row[1:]) for row in rows)
    return found, rows[-1][0] if rows else place


def _all(db: Connection, kind: type[R], clause: str, parameters: tuple[Any, ...] = ()) -> list[R]:
    columns = ", ".join(columns_of(kind))
    rows = db.execute(f"SELECT {columns} FROM {_TABLES[kind]} {clause}", parameters)
    return [decode_record(kind, row) for row in rows]


def _attempts(db: Connection) -> list[Attempt]:
    listed: list[Attempt] = []
    columns = ", ".join(columns_of(Attempt))
    for row in db.execute(f"SELECT {columns} FROM attempt ORDER BY attempt, rank"):
        said = _named(Attempt, row)
        said["status"] = RunStatus(said["status"])
        said["health"] = json.loads(said["health"])
        listed.append(Attempt(**said))
    return listed


def _put_attempt(db: Connection, attempt: Attempt) -> None:
    *plain, health = (getattr(attempt, name) for name in columns_of(Attempt))
    db.execute(_INSERT_ATTEMPT, (*plain, json.dumps(dict(health))))


def _rollup_state(db: Connection) -> RollupState:
    row = db.execute("SELECT value FROM state WHERE name = 'rollups'").fetchone()
    if row is None:
        return RollupState()
    said = json.loads(row[0])
    cuts = {int(attempt): step for attempt, step in said["cuts"].items()}
    return RollupState(cursor=said["cursor"], cuts=cuts)


def _named(kind: Any, row: Sequence[Any]) -> dict[str, Any]:  # Any: a dataclass, and its fields
    return dict(zip(columns_of(kind), row, strict=True))


def _with_nan(row: Sequence[Any]) -> list[Any]:  # Any: the fields of a row
    return [float("nan") if value is None else value for value in row]
