"""Writing metadata, for those parts of the service that never read it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

Row = Mapping[str, object]


class MetadataWrites(Protocol):
    """What the parts of the service that only write need."""

    def put(self, table: str, row: Row) -> None:
        """Writes a whole row, over the one with its primary key if there is one."""
        ...

    def change(self, table: str, key: str, values: Row) -> None:
        """Changes some columns of the row with this primary key, if there is one."""
        ...

    def remove(self, table: str, key: str) -> None:
        """Removes the row with this primary key, if there is one."""
        ...


class NullWrites:
    """Remembers nothing."""

    def put(self, table: str, row: Row) -> None: ...

    def change(self, table: str, key: str, values: Row) -> None: ...

    def remove(self, table: str, key: str) -> None: ...
