"""The one thread that writes and reads the metadata database.

Writes return at once: they are keyed rows, merged while they wait and put down in batches, one
transaction each. `run` asks for more, after everything written before it, and is awaited. The
thread sleeps until there is something to do. While the database is away writes are tried again
until it is back; questions wait a few seconds for it and then fail. Only what is not written when
the service stops, or is more than `MAX_WAITING_ROWS`, is lost and logged.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DataError, SQLAlchemyError

from tinsmith.core.errors import ConfigError, ServerError, TinsmithError, UserError
from tinsmith.server.errors import UnavailableError
from tinsmith.server.metadata import database
from tinsmith.server.metadata.tables import metadata
from tinsmith.server.metadata.writes import Row

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH_ROWS = 1000
RETRY_PAUSES_S = (0.1, 0.3, 1.0, 3.0, 5.0)
"""Between the tries of a write; the last one again and again, while questions are refused."""

MAX_WAITING_ROWS = 20_000
"""Rows that wait for a database that is away."""

LOCK_WAIT_S = 10.0


@dataclass(slots=True)
class _Write:
    """What to do about one row: a whole row, some columns of it, or (None) its removal."""

    values: dict[str, object] | None
    is_whole: bool


@dataclass(frozen=True, slots=True)
class _Task:
    """A question, or (None) the end."""

    ask: Callable[[Connection], object] | None
    answer: Future[object]


_Key = tuple[str, object]
_Item = tuple[_Key, _Write] | _Task


class MetadataStore:
    """A metadata database behind its thread. Made by `open`; any thread may use it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._waiting: deque[_Item] = deque()
        """Taken from the queue during an outage, and before what is there now."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tinsmith-metadata", daemon=True)

    @classmethod
    async def open(cls, url: str) -> MetadataStore:
        """Connects, migrates and starts the thread.

        Raises:
            ConfigError: the database cannot be used.
        """
        store = cls(database.make_engine(url))
        await asyncio.to_thread(store._start)
        return store

    @property
    def is_shared_by_machine(self) -> bool:
        """Whether other processes of this machine may serve from the same database."""
        return self._engine.dialect.name == "sqlite"

    def put(self, table: str, row: Row) -> None:
        """Writes a whole row, over the one with its primary key if there is one."""
        key = (table, row[_key_column(table).name])
        self._items.put((key, _Write(dict(row), is_whole=True)))

    def change(self, table: str, key: str, values: Row) -> None:
        """Changes some columns of the row with this primary key, if there is one."""
        self._items.put(((table, key), _Write(dict(values), is_whole=False)))

    def remove(self, table: str, key: str) -> None:
        """Removes the row with this primary key, if there is one."""
        self._items.put(((table, key), _Write(None, is_whole=True)))

    async def run(self, ask: Callable[[Connection], T]) -> T:
        """Runs a function on the connection, in a transaction, after all writes before it.

        Raises:
            ServerError: the database cannot be reached.
        """
        answer: Future[T] = Future()
        if self._closing.is_set():
            raise ServerError("the metadata store is closed")
        self._items.put(_Task(ask, answer))  # pyright: ignore[reportArgumentType] - T is an object
        return await asyncio.wrap_future(answer)

    async def close(self) -> None:
        """Writes what waits and ends the thread."""
        if not self._closing.is_set():
            self._closing.set()
            self._items.put(_Task(None, Future()))
        await asyncio.to_thread(self._thread.join)

    def _start(self) -> None:
        self._connection = database.connect(self._engine)
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while not database.take_service_lock(self._connection):
            if time.monotonic() > deadline_s:
                self._connection.close()
                raise ConfigError(
                    f"database_url={self._engine.url.render_as_string()!r}: another service uses "
                    "it, must be one service for each PostgreSQL database",
                    field="database_url",
                    hint="stop the other service, or give this one a database of its own",
                )
            time.sleep(0.2)  # one that was just ended lets go in a moment
        self._thread.start()

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch: dict[_Key, _Write] = {}
            task = self._gather(batch)
            if batch:
                if task is not None:
                    self._waiting.appendleft(task)
                self._write_patiently(batch)
            elif task is not None and task.ask is not None:
                self._answer(task.ask, task.answer)
            else:
                is_open = False
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    def _gather(self, batch: dict[_Key, _Write]) -> _Task | None:
        """Waits for work, then takes all that is there up to the first question."""
        item = self._waiting.popleft() if self._waiting else self._items.get()
        while True:
            if isinstance(item, _Task):
                return item
            _merge(batch, *item)
            if len(batch) >= MAX_BATCH_ROWS:
                return None
            try:
                item = self._waiting.popleft() if self._waiting else self._items.get_nowait()
            except queue.Empty:
                return None

    def _answer(self, ask: Callable[[Connection], object], answer: Future[object]) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            connection = self._alive()
            with connection.begin():
                result = ask(connection)
        except TinsmithError as exc:
            answer.set_exception(exc)
        except DataError as exc:
            refused = UserError(
                f"a value that the database cannot hold: {exc.orig}",
                hint="ids and names have no NUL characters",
            )
            answer.set_exception(refused)
        except Exception as exc:
            self._drop_connection(exc)
            if database.is_outage(exc):
                logger.warning("the metadata database is away: %s", exc)
                answer.set_exception(_away())
                return
            logger.error("the metadata database did not answer", exc_info=exc)
            answer.set_exception(
                ServerError(
                    f"the metadata database failed: {type(exc).__name__}",
                    hint="the service's log has the details",
                )
            )
        else:
            answer.set_result(result)

    def _write_patiently(self, batch: dict[_Key, _Write]) -> None:
        for pause_s in itertools.chain(RETRY_PAUSES_S, itertools.repeat(RETRY_PAUSES_S[-1])):
            try:
                self._write(batch)
                return
            except Exception as exc:
                self._drop_connection(exc)
                if not database.is_outage(exc):
                    self._write_one_by_one(batch, exc)
                    return
                is_long = pause_s == RETRY_PAUSES_S[-1]
                if self._sit_out(pause_s, is_long=is_long):
                    logger.error("%d rows of metadata are lost", len(batch), exc_info=exc)
                    return
                logger.warning("the metadata database is away, trying again: %s", exc)

    def _sit_out(self, pause_s: float, *, is_long: bool) -> bool:
        """Waits a moment of an outage; True where what was to be written is to be given up.

        In a long one questions are refused meanwhile, and the writes that come are kept in order.
        """
        if not is_long:
            return self._closing.wait(pause_s)
        came, self._waiting = self._waiting, deque()
        end_s = time.monotonic() + pause_s
        while came or not self._closing.is_set():
            try:
                left_s = max(end_s - time.monotonic(), 0)
                item = came.popleft() if came else self._items.get(timeout=left_s)
            except queue.Empty:
                break
            if not isinstance(item, _Task) or item.ask is None:
                self._waiting.append(item)
            elif item.answer.set_running_or_notify_cancel():
                item.answer.set_exception(_away())
        return self._closing.is_set() or len(self._waiting) > MAX_WAITING_ROWS

    def _write_one_by_one(self, batch: dict[_Key, _Write], refusal: Exception) -> None:
        """After a batch was refused: loses only the rows that are to blame."""
        if len(batch) > 1:
            for key, write in batch.items():
                self._write_patiently({key: write})
        else:
            logger.error("metadata row %r was refused and is lost", *batch, exc_info=refusal)

    def _write(self, batch: dict[_Key, _Write]) -> None:
        connection = self._alive()
        with connection.begin():
            for statement, rows in _statements(batch, connection.dialect.name):
                connection.execute(statement, rows)

    def _alive(self) -> Connection:
        if self._connection is None or self._connection.closed:
            connection = database.reconnect(self._engine)
            if not database.take_service_lock(connection):
                logger.critical("another service took over the metadata database")
            self._connection = connection
        return self._connection

    def _drop_connection(self, error: Exception) -> None:
        if self._connection is not None and isinstance(error, SQLAlchemyError):
            is_broken = database.is_outage(error) or self._connection.invalidated
            if is_broken:
                self._connection.invalidate()
                self._connection.close()
                self._connection = None


def _away() -> UnavailableError:
    return UnavailableError(
        "the metadata database is away", hint="send the request again in a moment"
    )


def _key_column(table: str) -> sa.Column[object]:
    (column,) = metadata.tables[table].primary_key.columns
    return column


def _merge(batch: dict[_Key, _Write], key: _Key, write: _Write) -> None:
    """Lets the later write of a row win, so that a batch holds each row once."""
    earlier = batch.get(key)
    if write.is_whole or earlier is None:
        batch[key] = write
    elif earlier.values is not None and write.values is not None:
        earlier.values.update(write.values)


def _statements(
    batch: dict[_Key, _Write], dialect: str
) -> list[tuple[sa.Executable, list[dict[str, object]]]]:
    """One statement for all rows that need the same."""
    groups: dict[tuple[str, bool, tuple[str, ...] | None], list[dict[str, object]]] = {}
    for (table, key), write in batch.items():
        names = None if write.values is None else tuple(sorted(write.values))
        row = {"row_key": key} if write.values is None or not write.is_whole else {}
        row |= write.values or {}
        groups.setdefault((table, write.is_whole, names), []).append(row)
    return [
        (_statement(metadata.tables[table], names, dialect, is_whole=is_whole), rows)
        for (table, is_whole, names), rows in groups.items()
    ]


@cache
def _statement(
    table: sa.Table, names: tuple[str, ...] | None, dialect: str, *, is_whole: bool
) -> sa.Executable:
    key = _key_column(table.name)
    if names is None:
        return table.delete().where(key == sa.bindparam("row_key"))
    if not is_whole:
        return table.update().where(key == sa.bindparam("row_key"))  # the rows name the columns
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    others = {name: insert.excluded[name] for name in names if name != key.name}
    return insert.on_conflict_do_update(index_elements=[key], set_=others)
