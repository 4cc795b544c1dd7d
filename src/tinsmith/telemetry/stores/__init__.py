"""Stores of the recorder behind one contract, `Store`."""

from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.memory import MemoryStore
from tinsmith.telemetry.stores.opening import open_store
from tinsmith.telemetry.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "Store", "open_store"]
