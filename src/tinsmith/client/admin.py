"""AdminClient: what the operator of a service asks about - use, audit, and the keys of others.

Main name: `AdminClient`.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TypeVar

import pydantic

from tinsmith.client import rest_calls
from tinsmith.client.connection import parse
from tinsmith.client.errors import NotFoundError
from tinsmith.client.futures import APIFuture
from tinsmith.client.sessionless import SessionlessClient
from tinsmith.client.transport import Request
from tinsmith.core import jsonio
from tinsmith.core.errors import ServerError
from tinsmith.types import (
    AuditEventType,
    AuditLogResponse,
    BillingUsageResponse,
    CreatedKey,
    CurrentCheckpointStorageUsageResponse,
    GetBillingUsageRequest,
    KeysResponse,
    parse_request,
)

M = TypeVar("M", bound=pydantic.BaseModel)


class AdminClient(SessionlessClient):
    """Looks at what a service was used for, and after its API keys.

    Needs no session, and nothing is sent before the first call. Every method returns an
    `APIFuture`. The keys are an extension of Tinsmith; other services have them elsewhere.

    Example:
        >>> admin = AdminClient(base_url="http://127.0.0.1:8000")
        >>> created = admin.create_key("Ada").result()  # doctest: +SKIP
    """

    def get_audit_log(
        self, event_type: AuditEventType = "all", day: date | None = None
    ) -> APIFuture[AuditLogResponse]:
        """What was done in a day of UTC; a Tinsmith service keeps no such log and has no entries.

        Args:
            event_type: whose events.
            day: today by default.
        """
        shown = None if day is None else day.isoformat()
        return rest_calls.get(
            self._connection, "audit", AuditLogResponse, event_type=event_type, day=shown
        )

    def get_billing_usage(
        self, starting_on: datetime | str, ending_before: datetime | str
    ) -> APIFuture[BillingUsageResponse]:
        """What was used in a span of time; a Tinsmith service bills nobody and has no events.

        Args:
            starting_on: a whole hour of UTC; a text is RFC 3339.
            ending_before: the first hour that is not part of it.

        Raises:
            UserError: a text is no time.
        """
        span = {"starting_on": starting_on, "ending_before": ending_before}
        said = parse_request(GetBillingUsageRequest, span).model_dump(mode="json")
        return rest_calls.get(
            self._connection, "billing/usage/events", BillingUsageResponse, **said
        )

    def get_current_checkpoint_storage_usage(
        self, project_id: str | None = None
    ) -> APIFuture[CurrentCheckpointStorageUsageResponse]:
        """How many checkpoints are kept, and how large they are."""
        return rest_calls.get(
            self._connection,
            "billing/usage/checkpoints/current",
            CurrentCheckpointStorageUsageResponse,
            project_id=project_id,
        )

    def create_key(self, name: str, note: str = "") -> APIFuture[CreatedKey]:
        """Make an API key for somebody; the service tells it this once. Operators only."""
        body = jsonio.dumps({"name": name, "note": note}).encode()
        return self._of_keys(Request("ext/keys", body), CreatedKey)

    def list_keys(self) -> APIFuture[KeysResponse]:
        """All API keys that were made, the revoked ones too. Operators only."""
        return self._of_keys(Request("ext/keys", method="GET"), KeysResponse)

    def revoke_key(self, key_id: int) -> APIFuture[None]:
        """End an API key; what it made stays. Operators only, but for one's own key."""
        return rest_calls.do(self._connection, Request(f"ext/keys/{key_id}", method="DELETE"))

    async def get_audit_log_async(
        self, event_type: AuditEventType = "all", day: date | None = None
    ) -> AuditLogResponse:
        """Twin of `get_audit_log`."""
        return await self.get_audit_log(event_type, day)

    async def get_billing_usage_async(
        self, starting_on: datetime | str, ending_before: datetime | str
    ) -> BillingUsageResponse:
        """Twin of `get_billing_usage`."""
        return await self.get_billing_usage(starting_on, ending_before)

    async def get_current_checkpoint_storage_usage_async(
        self, project_id: str | None = None
    ) -> CurrentCheckpointStorageUsageResponse:
        """Twin of `get_current_checkpoint_storage_usage`."""
        return await self.get_current_checkpoint_storage_usage(project_id)

    async def create_key_async(self, name: str, note: str = "") -> CreatedKey:
        """Twin of `create_key`."""
        return await self.create_key(name, note)

    async def list_keys_async(self) -> KeysResponse:
        """Twin of `list_keys`."""
        return await self.list_keys()

    async def revoke_key_async(self, key_id: int) -> None:
        """Twin of `revoke_key`."""
        await self.revoke_key(key_id)

    def _of_keys(self, request: Request, answer: type[M]) -> APIFuture[M]:
        async def send() -> M:
            try:
                reply = await self._connection.ask(request)
            except NotFoundError as error:
                raise ServerError(
                    "the service has no keys that could be managed this way",
                    hint="this is an extension of Tinsmith's; ask who runs the service",
                ) from error
            return parse(answer, reply.json(), request.path)

        return self._connection.start(send, str(request))
