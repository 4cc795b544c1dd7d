"""Stores of the recorder behind one contract, `Store`."""

from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.memory import MemoryStore
from tinsmith.telemetry.stores.opening import open_store
from tinsmith.telemetry.stores.postgres import PostgresStore
from tinsmith.telemetry.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "PostgresStore", "SqliteStore", "Store", "open_store"]
