"""Opening a metadata database: its address, its dialect's settings, and its migrations."""

from __future__ import annotations

from pathlib import Path
from sqlite3 import SQLITE_ERROR
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from tinsmith.core.errors import ConfigError, missing_extra

HEAD = "0001"
"""The newest migration; compared before Alembic is imported, which a start would feel."""

BUSY_TIMEOUT_S = 15.0
"""How long one process waits for another's transaction on the same SQLite file."""

SERVICE_LOCK = 0x7115_3117
"""PostgreSQL advisory lock that the one service of a database holds."""


def default_url(state_dir: Path) -> str:
    """The SQLite file of a state directory."""
    return f"sqlite:///{(state_dir / 'metadata.sqlite3').absolute()}"


def make_engine(url: str) -> Engine:
    """The engine of an address; nothing is opened yet.

    Raises:
        ConfigError: the address is none of SQLite or PostgreSQL. The message shows no password.
    """
    try:
        address = sa.make_url(url)
    except ArgumentError as exc:
        raise _bad_url("cannot be read") from exc
    backend = address.get_backend_name()
    if backend == "sqlite":
        if not address.database or address.database == ":memory:":
            raise _bad_url("names no file")
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(address, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    if backend not in ("postgresql", "postgres"):
        raise _bad_url(f"names {backend!r}")
    try:
        return sa.create_engine(
            address.set(drivername="postgresql+psycopg"), connect_args={"connect_timeout": 10}
        )
    except ModuleNotFoundError as exc:
        raise missing_extra("psycopg", "postgres") from exc


def connect(engine: Engine) -> Connection:
    """A connection to a database of the newest schema, migrated if need be.

    Raises:
        ConfigError: it cannot be reached, or a newer release made it.
    """
    try:
        return reconnect(engine)
    except SQLAlchemyError as exc:
        reason = str(getattr(exc, "orig", None) or exc).strip().splitlines()
        raise ConfigError(
            f"database_url={engine.url.render_as_string()!r}: cannot be opened: "
            f"{reason[0] if reason else type(exc).__name__}",
            field="database_url",
            hint="check the address, and that the server runs and lets this user in",
        ) from exc


def reconnect(engine: Engine) -> Connection:
    """`connect` of a service that runs: an address that worked may be away for a while.

    Raises:
        SQLAlchemyError: it cannot be reached, which `is_outage` tells from a refusal.
        ConfigError: a newer release made it.
    """
    connection = engine.connect()
    try:
        with connection.begin():
            if _revision(connection) != HEAD:
                migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: Connection, *, to: str = "head") -> None:
    """Brings a database to a revision, in the caller's transaction.

    Raises:
        ConfigError: a newer release made it.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, to)
    except CommandError as exc:
        raise ConfigError(
            f"database_url={connection.engine.url.render_as_string()!r}: has schema "
            f"{_revision(connection)!r}, this release knows up to {HEAD!r}",
            field="database_url",
            hint="upgrade Tinsmith, or use another database",
        ) from exc


def take_service_lock(connection: Connection) -> bool:
    """Whether this connection is the one that may serve from the database."""
    if connection.dialect.name == "sqlite":
        return True  # shared by the processes of one machine; each boot has its own lock file
    with connection.begin():
        return bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(SERVICE_LOCK))))


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the database is away or busy, so that later may work."""
    if not isinstance(error, OperationalError) or error.connection_invalidated:
        return bool(getattr(error, "connection_invalidated", False))
    # Both drivers also call a statement that will never work so: too large, or no SQL.
    is_too_large = str(getattr(error.orig, "sqlstate", None)).startswith("54")
    return not is_too_large and getattr(error.orig, "sqlite_errorcode", None) != SQLITE_ERROR


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version"))


def _set_up_sqlite(connection: Any, _: object) -> None:  # Any: the driver's own connection
    connection.isolation_level = None  # SQLAlchemy's `begin` event says BEGIN in its place
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: Connection) -> None:
    # A transaction that reads first and then writes must not lose to another process in between.
    # By the driver itself: of what a small transaction costs, SQLAlchemy's way takes a quarter.
    driver_connection: Any = connection.connection.driver_connection  # Any: as in _set_up_sqlite
    driver_connection.execute("BEGIN IMMEDIATE")


def _bad_url(problem: str) -> ConfigError:
    return ConfigError(
        f"database_url: {problem}; must be postgresql://user@host/name or sqlite:///path",
        field="database_url",
        hint="leave it out for a SQLite file in the state directory",
    )
