"""Stores by address."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tinsmith.core import environment
from tinsmith.core.errors import ConfigError, unknown_name
from tinsmith.core.paths import telemetry_dir
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.memory import MemoryStore
from tinsmith.telemetry.stores.postgres import PostgresStore
from tinsmith.telemetry.stores.sqlite import SqliteStore

__all__ = ["OFF", "default_address", "open_store"]

OFF = "off"
"""The address that says: record nothing."""


def default_address() -> str | Path:
    """Return where runs are recorded unless told otherwise: see `open_store`; or "off"."""
    return environment.record_store() or telemetry_dir()


def open_store(address: str | Path | None = None) -> Store:
    """Open a store; close it when done.

    Args:
        address: A folder, in which each run is a SQLite file; or `sqlite:///FOLDER`, or `memory:`,
            or `postgresql://USER@HOST:PORT/DATABASE`.
            By default what `TINSMITH_RECORD` says, else `telemetry/` in Tinsmith's data folder.

    Raises:
        UnknownNameError: no store of that kind, or one word that is no folder.
        ConfigError: an address without what it needs; or "off", which is no store.
    """
    if address is None:
        address = default_address()
    if address == OFF:
        raise ConfigError(
            "the recorder is off (TINSMITH_RECORD=off): there is no store to open",
            hint="unset it, or name a store",
        )
    if address == "":
        raise ConfigError("store '': names no place", hint="this folder is '.'")
    if isinstance(address, Path):
        return SqliteStore(address)
    if ":" not in address:
        if re.fullmatch(r"\w+", address) and not Path(address).exists():
            # "postgres", "duckdb": meant as a kind of store, not as a folder to be made.
            error = unknown_name("store", address, _OPENERS)
            error.hint = f"{error.hint or 'name a kind and a place'}; a folder is ./{address}"
            raise error
        return SqliteStore(address)
    kind, _, rest = address.partition(":")
    if len(kind) == 1:  # a drive of Windows
        return SqliteStore(address)
    opener = _OPENERS.get(kind)
    if opener is None:
        raise unknown_name("store", kind, _OPENERS)
    return opener(rest)


def _open_memory(rest: str) -> Store:
    if rest.strip("/"):
        raise ConfigError(f"store 'memory:{rest}': memory has no place; write 'memory:'")
    return MemoryStore()


def _open_sqlite(rest: str) -> Store:
    if not rest.startswith("///") or len(rest) < len("////"):
        raise ConfigError(
            f"store 'sqlite:{rest}': must be 'sqlite:///' and the whole path of a folder",
            hint="a relative folder needs no 'sqlite:' before it",
        )
    return SqliteStore(rest.removeprefix("//"))


def _open_postgres(rest: str) -> Store:
    return PostgresStore(f"postgresql:{rest}")


_OPENERS: dict[str, Callable[[str], Store]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "postgresql": _open_postgres,
    "postgres": _open_postgres,
}
