"""Stores of the recorder behind one contract, `Store`."""

from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.memory import MemoryStore

__all__ = ["MemoryStore", "Store"]
