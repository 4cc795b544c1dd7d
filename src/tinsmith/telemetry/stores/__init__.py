"""Stores of the recorder behind one contract, `Store`."""

from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.memory import MemoryStore
from tinsmith.telemetry.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "Store"]
