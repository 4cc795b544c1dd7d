"""Connections to a PostgreSQL server: one that writes, one that reads, each behind a lock.

A connection that a restarted server cut is replaced when the next transaction begins; a transaction
that the cut hit raises a `StoreError` that may be tried again. After a fork the child opens
connections of its own, and never speaks on its parent's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Generator
from typing import Any, TypeAlias

from tinsmith.core.errors import ConfigError, missing_extra
from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.stores.postgres_schema import STAGING, migrate

__all__ = ["Link", "require_psycopg"]

Connection: TypeAlias = Any  # psycopg's, which is imported when it is needed

_CONNECT_TIMEOUT_S = 10
_SILENCE_MS = 30_000
"""How long a server that went away without a word is waited for."""

_links: weakref.WeakSet[Link] = weakref.WeakSet()
_inherited: list[Connection] = []
"""A parent's connections: closing one would say goodbye on the parent's socket."""


def require_psycopg() -> Any:  # Any: the package
    """Import psycopg.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import psycopg
    except ImportError as error:
        raise missing_extra("psycopg", "postgres") from error
    return psycopg


class Link:
    """A server in this process; thread-safe. Connects, and makes the tables, when it is first used.

    Args:
        address: `postgresql://...` or any connection string of libpq.
    """

    def __init__(self, address: str) -> None:
        self._psycopg = require_psycopg()
        try:
            said = self._psycopg.conninfo.conninfo_to_dict(address)
        except self._psycopg.Error as error:
            raise ConfigError(
                "store: not an address of a PostgreSQL database: " + str(error).strip(),
                field="store",
                hint="write postgresql://USER@HOST:PORT/DATABASE",
            ) from error
        defaults = {"connect_timeout": _CONNECT_TIMEOUT_S, "tcp_user_timeout": _SILENCE_MS}
        self._address: str = self._psycopg.conninfo.make_conninfo(**{**defaults, **said})
        self.name = "postgresql://{user}@{host}:{port}/{dbname}".format(
            user=said.get("user", ""),
            host=said.get("host", "localhost"),
            port=said.get("port", 5432),
            dbname=said.get("dbname", ""),
        )
        self.forget()
        _links.add(self)

    def forget(self) -> None:
        """Start without connections and with free locks, as in a forked child."""
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    @contextlib.contextmanager
    def writing(self) -> Generator[Connection]:
        """Run a transaction: committed at the end of the block, rolled back if it raises."""
        with self._write_lock, self._translated():
            self._writer = self._begun(self._writer, "BEGIN", STAGING)
            with _transaction(self._writer):
                yield self._writer

    @contextlib.contextmanager
    def reading(self) -> Generator[Connection]:
        """Run a block of reads that all see one state of the database."""
        with self._read_lock, self._translated():
            self._reader = self._begun(
                self._reader, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
            )
            with _transaction(self._reader):
                yield self._reader

    def close(self) -> None:
        """Close both connections once their transactions end."""
        with self._write_lock, self._read_lock:
            for db in (self._writer, self._reader):
                if db is not None:
                    db.close()
            self._writer = self._reader = None

    def inherit(self) -> None:
        """Leave the parent's connections alone, and begin anew."""
        _inherited.extend(db for db in (self._writer, self._reader) if db is not None)
        self.forget()

    def _begun(self, db: Connection | None, begin: str, prepare: str | None = None) -> Connection:
        if db is not None:
            try:
                db.execute(begin)
                return db
            except self._psycopg.OperationalError:  # cut while it was idle: nothing was lost
                db.close()
        fresh: Connection = self._psycopg.connect(self._address, autocommit=True)
        try:
            migrate(fresh)
            if prepare is not None:
                fresh.execute(prepare)
            fresh.execute(begin)
        except BaseException:
            fresh.close()
            raise
        return fresh

    @contextlib.contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (self._psycopg.OperationalError, self._psycopg.InterfaceError) as error:
            raise StoreError(
                f"store={self.name!r}: {str(error).strip()}",
                field="store",
                hint="check that the server runs and lets this user in; the recorder tries again",
            ) from error
        except self._psycopg.Error as error:
            raise StoreError(
                f"store={self.name!r}: {str(error).strip()}", field="store", is_permanent=True
            ) from error


@contextlib.contextmanager
def _transaction(db: Connection) -> Generator[None]:
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(Exception):  # the connection may be gone, and its end is the same
            db.execute("ROLLBACK")
        raise


def _after_fork_in_child() -> None:
    for link in list(_links):
        link.inherit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
