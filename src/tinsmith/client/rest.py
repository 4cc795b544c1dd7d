"""RestClient: what a service keeps - training runs, checkpoints, sessions - without a session.

Main name: `RestClient`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote, urljoin

import pydantic

from tinsmith.client import rest_calls
from tinsmith.client.admin import AdminClient
from tinsmith.client.archives import ArchiveLimits
from tinsmith.client.connection import parse
from tinsmith.client.downloads import Download, Progress, download_checkpoint
from tinsmith.client.errors import ClientClosedError, NotFoundError
from tinsmith.client.futures import APIFuture
from tinsmith.client.jwt import whoami_of_token
from tinsmith.client.loop import run_in_daemon_thread
from tinsmith.client.sessionless import SessionlessClient
from tinsmith.client.transport import Reply, Request
from tinsmith.core.errors import ServerError, UserError
from tinsmith.types import (
    AccessScope,
    ApiKeyResponse,
    AuditEventType,
    AuditLogResponse,
    BillingUsageResponse,
    CheckpointArchiveUrlResponse,
    CheckpointsListResponse,
    CheckpointTtlRequest,
    CopyWeightsRequest,
    CopyWeightsResponse,
    CurrentCheckpointStorageUsageResponse,
    ExternalWeightsUrlsResponse,
    GetSamplerResponse,
    GetServerCapabilitiesResponse,
    GetSessionResponse,
    ListSessionsResponse,
    ParsedCheckpointTinkerPath,
    RequestModel,
    SessionProjectRequest,
    SessionSearchRequest,
    SessionSearchResponse,
    SessionTraceExportResponse,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoRequest,
    WeightsInfoResponse,
    WhoamiResponse,
)

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=pydantic.BaseModel)

MAX_DOWNLOAD_BYTES = 100 * 2**30
TRACE_POLL_INTERVAL_S = 5.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class RestClient(SessionlessClient):
    """Looks at and looks after what a service keeps.

    Needs no session, and nothing is sent before the first call. Every method returns an
    `APIFuture`; the `_async` twins are awaited for the result.

    Example:
        >>> rest = RestClient(base_url="http://127.0.0.1:8000")
        >>> runs = rest.list_training_runs().result()  # doctest: +SKIP
    """

    # The service -----------------------------------------------------------------------------

    def get_server_capabilities(self) -> APIFuture[GetServerCapabilitiesResponse]:
        """The base models the service offers."""
        return self._get("get_server_capabilities", GetServerCapabilitiesResponse)

    def whoami(self) -> APIFuture[WhoamiResponse]:
        """Whose credential is in use.

        Read from the key where it is a token that says so (a JWT), else from the service's record
        of the key.
        """

        async def whoami() -> WhoamiResponse:
            answer = whoami_of_token(self._connection.settings.api_key)
            if answer is None:  # it may have been exchanged for a token that says more
                transport = await self._connection.transport()
                answer = whoami_of_token(await transport.credential.token())
            if answer is not None:
                return answer
            try:
                record = await self._connection.get("auth/apikey/me", ApiKeyResponse)
            except NotFoundError as error:
                raise ServerError(
                    "whoami: the service keeps no record of keys", hint="ask who runs it"
                ) from error
            return WhoamiResponse(
                user_urn=f"apikey:{record.key_id}",
                org_urn=record.details.org_details.name or "",
                email=record.details.user_details.email,
            )

        return self._connection.start(whoami, "whoami")

    # Training runs ---------------------------------------------------------------------------

    def get_training_run(
        self, training_run_id: str, access_scope: AccessScope = "owned"
    ) -> APIFuture[TrainingRun]:
        """A training run by its id, which is its model's id."""
        return self._get(_run(training_run_id), TrainingRun, access_scope=access_scope)

    def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: AccessScope = "owned"
    ) -> APIFuture[TrainingRun]:
        """The training run that saved a checkpoint."""
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
        return self.get_training_run(parsed.training_run_id, access_scope)

    def list_training_runs(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: AccessScope = "owned",
        project_id: str | None = None,
    ) -> APIFuture[TrainingRunsResponse]:
        """A page of training runs; its cursor says how many there are."""
        return self._get(
            "training_runs",
            TrainingRunsResponse,
            limit=limit,
            offset=offset,
            access_scope=access_scope,
            project_id=project_id,
        )

    # Checkpoints -----------------------------------------------------------------------------

    def list_checkpoints(self, training_run_id: str) -> APIFuture[CheckpointsListResponse]:
        """All checkpoints of a training run."""
        return self._get(f"{_run(training_run_id)}/checkpoints", CheckpointsListResponse)

    def list_user_checkpoints(
        self, limit: int = 100, offset: int = 0
    ) -> APIFuture[CheckpointsListResponse]:
        """A page of the checkpoints of all training runs, newest first."""
        return self._get("checkpoints", CheckpointsListResponse, limit=limit, offset=offset)

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> APIFuture[WeightsInfoResponse]:
        """What a checkpoint holds: base model, rank, trained parts."""
        request = _request("weights_info", WeightsInfoRequest(tinker_path=tinker_path))
        return self._ask(request, WeightsInfoResponse)

    def get_external_weights_urls(self, tinker_path: str) -> APIFuture[ExternalWeightsUrlsResponse]:
        """Where the files of an export (`save_weights_external`) can be fetched.

        Raises:
            UserError: the path is not that of an export.
        """
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
        if parsed.checkpoint_type != "external":
            raise UserError(
                f"path={tinker_path!r}: must be that of an export, .../external_weights/<name>",
                field="path",
                hint="TrainingClient.save_weights_external makes one",
            )
        return self._get(
            f"{_checkpoint(tinker_path)}/external_weights_urls", ExternalWeightsUrlsResponse
        )

    def get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str
    ) -> APIFuture[CheckpointArchiveUrlResponse]:
        """Where the files of a checkpoint can be fetched as one tar, for a while, without a key."""
        path = f"{_checkpoint_of(training_run_id, checkpoint_id)}/archive"
        request = Request(path, method="GET", expects=_REDIRECTS)

        async def ask() -> CheckpointArchiveUrlResponse:
            reply = await self._connection.ask(request)
            base_url = (await self._connection.transport()).base_url
            return _archive_url(reply, f"{base_url}/api/v1/{request.path}")

        return self._connection.start(ask, str(request))

    def get_checkpoint_archive_url_from_tinker_path(
        self, tinker_path: str
    ) -> APIFuture[CheckpointArchiveUrlResponse]:
        """The same by the checkpoint's address."""
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
        return self.get_checkpoint_archive_url(parsed.training_run_id, parsed.checkpoint_id)

    def download_checkpoint(
        self,
        tinker_path: str,
        directory: str | Path,
        *,
        overwrite: bool = False,
        max_bytes: int = MAX_DOWNLOAD_BYTES,
        progress: Callable[[Progress], None] | None = None,
    ) -> APIFuture[Download]:
        """Fetch a checkpoint's files into a directory, which appears when all of them are there.

        Streams to disk and goes on after a broken connection. Cancelling the future while bytes
        come ends the download; nothing is left behind, then and after a failure.

        Args:
            tinker_path: the checkpoint's address.
            directory: is made, with its parents.
            overwrite: replace the directory if it is there, once the new one is whole.
            max_bytes: of the archive, and of its files together; what is larger is refused.
            progress: called in a thread of ours with the bytes so far and in all.

        Raises:
            UserError: the path is not a checkpoint's address.
        """
        ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
        is_given_up = threading.Event()

        def watch(now: Progress) -> None:
            if is_given_up.is_set():
                raise ClientClosedError("download_checkpoint: given up")
            if progress is not None:
                progress(now)

        def fetch() -> Download:
            return download_checkpoint(
                lambda: self.get_checkpoint_archive_url_from_tinker_path(tinker_path).result().url,
                Path(directory).expanduser(),
                overwrite=overwrite,
                limits=ArchiveLimits(max_bytes=max_bytes),
                progress=watch,
            )

        async def download() -> Download:
            try:
                return await run_in_daemon_thread(fetch)
            finally:
                is_given_up.set()

        return self._connection.start(download, "download_checkpoint")

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> APIFuture[None]:
        """Delete a checkpoint by its id, such as `weights/step-10`."""
        return self._do(Request(_checkpoint_of(training_run_id, checkpoint_id), method="DELETE"))

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Delete a checkpoint by its address."""
        return self._do(Request(_checkpoint(tinker_path), method="DELETE"))

    def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Let other accounts load a checkpoint; one that is public already stays so."""
        return self._publish(tinker_path, "POST")

    def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Take a checkpoint back from other accounts."""
        return self._publish(tinker_path, "DELETE")

    def set_checkpoint_ttl_from_tinker_path(
        self, tinker_path: str, ttl_seconds: int | None
    ) -> APIFuture[None]:
        """Say when a checkpoint is deleted, from now; None keeps it for good."""
        body = CheckpointTtlRequest(ttl_seconds=ttl_seconds).model_dump_json()  # null is said
        return self._do(Request(f"{_checkpoint(tinker_path)}/ttl", body.encode(), method="PUT"))

    def copy_weights(
        self,
        path: str,
        destination_project_id: str | None = None,
        *,
        ttl_seconds: int | None = None,
        weights_access_token: str | None = None,
    ) -> APIFuture[str]:
        """Copy a checkpoint into a project; gives the copy's address.

        Args:
            path: the `tinker://` address of the checkpoint.
            destination_project_id: by default the client's own project.
            ttl_seconds: of the copy; the source's is not inherited.
            weights_access_token: of another account's checkpoint.

        Raises:
            UserError: there is no project to copy into.
        """
        project_id = destination_project_id or self._connection.settings.project_id
        if project_id is None:
            raise UserError(
                "copy_weights needs destination_project_id",
                field="destination_project_id",
                hint="pass it, or set TINSMITH_PROJECT_ID",
            )
        request = _request(
            "copy_weights",
            CopyWeightsRequest(
                source_path=path, destination_project_id=project_id, ttl_seconds=ttl_seconds
            ),
            headers=_token_header(weights_access_token),
        )

        async def copy() -> str:
            reply = await self._connection.ask(request)
            return parse(CopyWeightsResponse, reply.json(), request.path).tinker_path

        return self._connection.start(copy, "copy_weights")

    # Sessions and samplers -------------------------------------------------------------------

    def get_session(
        self, session_id: str, access_scope: AccessScope = "owned"
    ) -> APIFuture[GetSessionResponse]:
        """What a session made."""
        return self._get(_session(session_id), GetSessionResponse, access_scope=access_scope)

    def list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned"
    ) -> APIFuture[ListSessionsResponse]:
        """A page of session ids."""
        return self._get(
            "sessions", ListSessionsResponse, limit=limit, offset=offset, access_scope=access_scope
        )

    def search_sessions(self, request: SessionSearchRequest) -> APIFuture[SessionSearchResponse]:
        """A page of the sessions that match, newest first.

        Raises:
            UserError: `request` is something else, such as a dict.
        """
        if not isinstance(request, SessionSearchRequest):  # pyright: ignore[reportUnnecessaryIsInstance] - scripts are not type-checked
            raise UserError(
                f"request: must be a SessionSearchRequest, not {type(request).__name__}",
                field="request",
                hint="SessionSearchRequest() finds every session",
            )
        return self._ask(_request("sessions/search", request), SessionSearchResponse)

    def assign_session_project(self, session_id: str, project_id: str) -> APIFuture[None]:
        """Move a session and what it made to a project."""
        request = SessionProjectRequest(project_id=project_id)
        return self._do(_request(f"{_session(session_id)}/project", request, method="PUT"))

    def export_session_trace(self, session_id: str) -> APIFuture[str]:
        """The address of a session's timeline (a Perfetto trace), once the service has made it.

        Raises:
            ServerError: it could not be made.
        """
        path = f"{_session(session_id)}/trace_export"

        async def export() -> str:
            while True:
                state = await self._connection.get(path, SessionTraceExportResponse)
                if state.status == "ready" and state.url is not None:
                    return state.url
                if state.status != "pending":
                    raise ServerError(f"session={session_id}: no trace: {state.error}")
                await asyncio.sleep(TRACE_POLL_INTERVAL_S)

        return self._connection.start(export, "export_session_trace")

    def get_sampler(self, sampler_id: str) -> APIFuture[GetSamplerResponse]:
        """What a sampler samples from."""
        return self._get(f"samplers/{quote(sampler_id, safe=':')}", GetSamplerResponse)

    # Use and audit, under the names of older scripts -------------------------------------------

    def get_audit_log(
        self, event_type: AuditEventType = "all", day: date | None = None
    ) -> APIFuture[AuditLogResponse]:
        """See `AdminClient.get_audit_log`."""
        return AdminClient.of(self._connection).get_audit_log(event_type, day)

    def get_billing_usage(
        self, starting_on: datetime | str, ending_before: datetime | str
    ) -> APIFuture[BillingUsageResponse]:
        """See `AdminClient.get_billing_usage`."""
        return AdminClient.of(self._connection).get_billing_usage(starting_on, ending_before)

    def get_current_checkpoint_storage_usage(
        self, project_id: str | None = None
    ) -> APIFuture[CurrentCheckpointStorageUsageResponse]:
        """See `AdminClient.get_current_checkpoint_storage_usage`."""
        return AdminClient.of(self._connection).get_current_checkpoint_storage_usage(project_id)

    # Twins -----------------------------------------------------------------------------------

    async def get_server_capabilities_async(self) -> GetServerCapabilitiesResponse:
        """Twin of `get_server_capabilities`."""
        return await self.get_server_capabilities()

    async def whoami_async(self) -> WhoamiResponse:
        """Twin of `whoami`."""
        return await self.whoami()

    async def get_training_run_async(
        self, training_run_id: str, access_scope: AccessScope = "owned"
    ) -> TrainingRun:
        """Twin of `get_training_run`."""
        return await self.get_training_run(training_run_id, access_scope)

    async def get_training_run_by_tinker_path_async(
        self, tinker_path: str, access_scope: AccessScope = "owned"
    ) -> TrainingRun:
        """Twin of `get_training_run_by_tinker_path`."""
        return await self.get_training_run_by_tinker_path(tinker_path, access_scope)

    async def list_training_runs_async(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: AccessScope = "owned",
        project_id: str | None = None,
    ) -> TrainingRunsResponse:
        """Twin of `list_training_runs`."""
        return await self.list_training_runs(limit, offset, access_scope, project_id)

    async def list_checkpoints_async(self, training_run_id: str) -> CheckpointsListResponse:
        """Twin of `list_checkpoints`."""
        return await self.list_checkpoints(training_run_id)

    async def list_user_checkpoints_async(
        self, limit: int = 100, offset: int = 0
    ) -> CheckpointsListResponse:
        """Twin of `list_user_checkpoints`."""
        return await self.list_user_checkpoints(limit, offset)

    async def get_weights_info_by_tinker_path_async(self, tinker_path: str) -> WeightsInfoResponse:
        """Twin of `get_weights_info_by_tinker_path`."""
        return await self.get_weights_info_by_tinker_path(tinker_path)

    async def get_external_weights_urls_async(
        self, tinker_path: str
    ) -> ExternalWeightsUrlsResponse:
        """Twin of `get_external_weights_urls`."""
        return await self.get_external_weights_urls(tinker_path)

    async def get_checkpoint_archive_url_async(
        self, training_run_id: str, checkpoint_id: str
    ) -> CheckpointArchiveUrlResponse:
        """Twin of `get_checkpoint_archive_url`."""
        return await self.get_checkpoint_archive_url(training_run_id, checkpoint_id)

    async def get_checkpoint_archive_url_from_tinker_path_async(
        self, tinker_path: str
    ) -> CheckpointArchiveUrlResponse:
        """Twin of `get_checkpoint_archive_url_from_tinker_path`."""
        return await self.get_checkpoint_archive_url_from_tinker_path(tinker_path)

    async def download_checkpoint_async(
        self,
        tinker_path: str,
        directory: str | Path,
        *,
        overwrite: bool = False,
        max_bytes: int = MAX_DOWNLOAD_BYTES,
        progress: Callable[[Progress], None] | None = None,
    ) -> Download:
        """Twin of `download_checkpoint`."""
        return await self.download_checkpoint(
            tinker_path, directory, overwrite=overwrite, max_bytes=max_bytes, progress=progress
        )

    async def delete_checkpoint_async(self, training_run_id: str, checkpoint_id: str) -> None:
        """Twin of `delete_checkpoint`."""
        await self.delete_checkpoint(training_run_id, checkpoint_id)

    async def delete_checkpoint_from_tinker_path_async(self, tinker_path: str) -> None:
        """Twin of `delete_checkpoint_from_tinker_path`."""
        await self.delete_checkpoint_from_tinker_path(tinker_path)

    async def publish_checkpoint_from_tinker_path_async(self, tinker_path: str) -> None:
        """Twin of `publish_checkpoint_from_tinker_path`."""
        await self.publish_checkpoint_from_tinker_path(tinker_path)

    async def unpublish_checkpoint_from_tinker_path_async(self, tinker_path: str) -> None:
        """Twin of `unpublish_checkpoint_from_tinker_path`."""
        await self.unpublish_checkpoint_from_tinker_path(tinker_path)

    async def set_checkpoint_ttl_from_tinker_path_async(
        self, tinker_path: str, ttl_seconds: int | None
    ) -> None:
        """Twin of `set_checkpoint_ttl_from_tinker_path`."""
        await self.set_checkpoint_ttl_from_tinker_path(tinker_path, ttl_seconds)

    async def copy_weights_async(
        self,
        path: str,
        destination_project_id: str | None = None,
        *,
        ttl_seconds: int | None = None,
        weights_access_token: str | None = None,
    ) -> str:
        """Twin of `copy_weights`."""
        return await self.copy_weights(
            path,
            destination_project_id,
            ttl_seconds=ttl_seconds,
            weights_access_token=weights_access_token,
        )

    async def get_session_async(
        self, session_id: str, access_scope: AccessScope = "owned"
    ) -> GetSessionResponse:
        """Twin of `get_session`."""
        return await self.get_session(session_id, access_scope)

    async def list_sessions_async(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned"
    ) -> ListSessionsResponse:
        """Twin of `list_sessions`."""
        return await self.list_sessions(limit, offset, access_scope)

    async def search_sessions_async(self, request: SessionSearchRequest) -> SessionSearchResponse:
        """Twin of `search_sessions`."""
        return await self.search_sessions(request)

    async def assign_session_project_async(self, session_id: str, project_id: str) -> None:
        """Twin of `assign_session_project`."""
        await self.assign_session_project(session_id, project_id)

    async def export_session_trace_async(self, session_id: str) -> str:
        """Twin of `export_session_trace`."""
        return await self.export_session_trace(session_id)

    async def get_sampler_async(self, sampler_id: str) -> GetSamplerResponse:
        """Twin of `get_sampler`."""
        return await self.get_sampler(sampler_id)

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

    def _get(self, path: str, answer: type[M], **query: str | int | None) -> APIFuture[M]:
        return rest_calls.get(self._connection, path, answer, **query)

    def _ask(self, request: Request, answer: type[M]) -> APIFuture[M]:
        return rest_calls.ask(self._connection, request, answer)

    def _do(self, request: Request) -> APIFuture[None]:
        return rest_calls.do(self._connection, request)

    def _publish(self, tinker_path: str, method: Literal["POST", "DELETE"]) -> APIFuture[None]:
        # A conflict says that the checkpoint is in the wanted state already.
        request = Request(
            f"{_checkpoint(tinker_path)}/publish", method=method, expects=frozenset({409})
        )
        return self._do(request)


def _run(training_run_id: str) -> str:
    if not isinstance(training_run_id, str) or not training_run_id:  # pyright: ignore[reportUnnecessaryIsInstance] - scripts are not type-checked
        raise UserError(
            f"training_run_id={training_run_id!r}: must be the id of a run",
            field="training_run_id",
            hint="TrainingClient.model_id is one; list_training_runs lists them",
        )
    return f"training_runs/{quote(training_run_id, safe=':')}"


def _checkpoint_of(training_run_id: str, checkpoint_id: str) -> str:
    return f"{_run(training_run_id)}/checkpoints/{quote(checkpoint_id, safe=':/')}"


def _checkpoint(tinker_path: str) -> str:
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
    return _checkpoint_of(parsed.training_run_id, parsed.checkpoint_id)


def _archive_url(reply: Reply, asked_url: str) -> CheckpointArchiveUrlResponse:
    """Read an answer that is a redirect, or JSON that says the same."""
    location = reply.headers.get("location")
    if location is None:
        return parse(CheckpointArchiveUrlResponse, reply.json(), "archive")
    try:
        expires = parsedate_to_datetime(reply.headers.get("expires", ""))
    except ValueError:  # it need not say; the link is used at once
        expires = datetime.now(UTC)
    return CheckpointArchiveUrlResponse(url=urljoin(asked_url, location), expires=expires)


def _session(session_id: str) -> str:
    return f"sessions/{quote(session_id, safe=':')}"


def _request(
    path: str,
    body: RequestModel,
    *,
    method: Literal["POST", "PUT"] = "POST",
    headers: Mapping[str, str] | None = None,
) -> Request:
    content = body.model_dump_json(exclude_none=True).encode()
    return Request(path, content, method=method, headers=headers or {})


def _token_header(weights_access_token: str | None) -> Mapping[str, str]:
    if weights_access_token is None:
        return {}
    return {"X-Tinker-Weights-Access-Token": weights_access_token}
