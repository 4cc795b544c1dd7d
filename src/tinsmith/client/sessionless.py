"""What the clients that need no session share: how they are made, closed and shown.

Main name: `SessionlessClient`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tinsmith.client.connection import Connection
from tinsmith.client.futures import APIFuture, start
from tinsmith.client.reporter import Telemetry
from tinsmith.client.settings import settings_from


class SessionlessClient:
    """A client that sends nothing before its first call and opens no session."""

    def __init__(self, *, base_url: str | None = None, api_key: str | None = None) -> None:
        """Remember what to connect to; arguments as those of `ServiceClient`.

        Raises:
            MissingExtraError: no address, and the packages of the embedded service are missing.
            UserError: the address is not one.
        """
        self._connection = Connection(settings_from(base_url, api_key))

    @classmethod
    def of(cls, connection: Connection) -> Self:
        """A client that shares another one's connection."""
        client = cls.__new__(cls)
        client._connection = connection
        return client

    def __repr__(self) -> str:
        where = self._connection.settings.base_url or "embedded service"
        return f"{type(self).__name__}({where})"

    def close(self) -> APIFuture[None]:
        """Close the connections; of a client that a ServiceClient made, that one's too."""
        return start(lambda: self._connection.close("success", None), "close")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close().result()

    def get_telemetry(self) -> Telemetry | None:
        """What reports to the service how this client fares; None where that is turned off."""
        return self._connection.telemetry
