"""One ServiceClient's way to its service: address, configuration, session, numbering.

Everything is made on first use: the constructor of a client does no I/O. Main names: `Connection`,
`ServiceConfig`.
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import itertools
import logging
import os
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

import pydantic

import tinsmith
from tinsmith.client import launcher
from tinsmith.client.backpressure import ByteBudget, SampleGate
from tinsmith.client.chunking import ChunkLimits
from tinsmith.client.credentials import CommandKey
from tinsmith.client.errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    ClientClosedError,
    NotFoundError,
    UnsupportedError,
)
from tinsmith.client.futures import APIFuture, start
from tinsmith.client.jwt import JWT_PREFIX, ExchangedToken
from tinsmith.client.loop import loop_thread, run_in_daemon_thread
from tinsmith.client.polling import ResultKind, await_result
from tinsmith.client.queue_state import QueueObserver
from tinsmith.client.reporter import Telemetry
from tinsmith.client.retries import RetryPolicy
from tinsmith.client.session import FinishStatus, Session
from tinsmith.client.settings import ConnectionSettings
from tinsmith.client.spool import Spool, spool_dir
from tinsmith.client.transport import Reply, Request, Transport
from tinsmith.core import environment, jsonio, paths
from tinsmith.core.errors import TinsmithError, UserError
from tinsmith.types import (
    AuthTokenResponse,
    CreateSessionRequest,
    CreateSessionResponse,
    GetServerCapabilitiesResponse,
    UntypedAPIFuture,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
M = TypeVar("M", bound=pydantic.BaseModel)

_EXIT_TIMEOUT_S = 2.0
"""How long the end of the process may wait for sessions to be finished."""
_FEW_RETRIES = RetryPolicy(max_retries=2, max_elapsed_s=30.0)


class ServiceConfig(pydantic.BaseModel):
    """The answer of `client/config`, as far as this client acts on it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    fwdbwd_max_chunk_len: int = pydantic.Field(default=1024, ge=1)
    """Datums in one request at most."""
    fwdbwd_max_chunk_bytes_count: int = pydantic.Field(default=5_000_000, ge=1)
    """Estimated bytes in one request at most."""
    parallel_fwdbwd_chunks: bool = True
    """Whether the chunks of one call are sent at the same time."""
    pjwt_auth_enabled: bool = False
    """The service wants short-lived tokens, for which keys are exchanged."""
    custom_loss_server_side: bool = False
    """Whether the service runs uploaded losses."""
    credential_default_source: str = "api_key"
    """"credential_cmd": the exchange wants what the credential command prints."""

    proto_compress_fwdbwd: bool = False
    """Whether passes over data travel compressed (zstd)."""
    fwdbwd_dispatch_bytes_semaphore_size: int = pydantic.Field(default=50_000_000, ge=1)
    """Bytes of passes being submitted at once."""
    sample_dispatch_bytes_semaphore_size: int = pydantic.Field(default=10 * 2**20, ge=1)
    """Estimated bytes of samples being submitted at once."""
    inflight_response_bytes_semaphore_size: int = pydantic.Field(default=50 * 2**20, ge=1)
    """Bytes of large results being fetched at once."""
    sample_max_concurrent_requests: int = pydantic.Field(default=2000, ge=1)
    """Samples of one client in flight at once, from submission to result."""
    sample_no_retries: bool = False
    """Samples are sent once."""
    sample_enable_stuck_detection: bool = True
    """Whether samples that make no progress fail."""

    @property
    def chunk_limits(self) -> ChunkLimits:
        return ChunkLimits(self.fwdbwd_max_chunk_len, self.fwdbwd_max_chunk_bytes_count)


class DynamicConfig(pydantic.BaseModel):
    """The answer of `client/dynamic_config`, as far as this client acts on it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    sample_cancel_enabled: bool = False
    """The service wants to hear of samples that nobody waits for any more."""


class Connection:
    """Shared by a ServiceClient and the clients it made; used on the SDK's loop."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self.config = ServiceConfig()
        self.model_seq_ids = itertools.count()
        self.sampling_session_seq_ids = itertools.count()
        self.custom_loss_seq_ids = itertools.count()
        self._pid = os.getpid()
        self._api_key = settings.api_key
        self._is_closed = False
        self._transport = _Once(self._open)
        self._session = _Once(self._create_session)
        self._capabilities = _Once(self._get_capabilities)
        self._dynamic_config = _Once(self._get_dynamic_config)
        self._goodbyes: set[asyncio.Task[None]] = (
            set()
        )  # the loop itself keeps only weak references
        self.sample_gate = SampleGate(lambda: self.config.sample_dispatch_bytes_semaphore_size)
        self.pass_budget = ByteBudget(lambda: self.config.fwdbwd_dispatch_bytes_semaphore_size)
        self._result_budget = ByteBudget(lambda: self.config.inflight_response_bytes_semaphore_size)
        self.telemetry = _telemetry_of(self) if environment.is_telemetry_on() else None

    @property
    def is_embedded(self) -> bool:
        return self.settings.base_url is None

    @property
    def session_id(self) -> str | None:
        """Of the session, if it has begun."""
        session = self._session.value
        return None if session is None else session.session_id

    def joined_settings(self) -> ConnectionSettings:
        """Settings by which another process takes part in this session, which has begun."""
        session, transport = self._session.value, self._transport.value
        assert session is not None
        assert transport is not None
        return dataclasses.replace(
            self.settings,
            base_url=transport.base_url,
            api_key=self._api_key,
            session_id=session.session_id,
        )

    def start(self, make: Callable[[], Coroutine[Any, Any, T]], label: str) -> APIFuture[T]:
        """Run a call on the SDK's loop; a failure is reported to the service."""
        return self.watched(start(make, label))

    def watched(self, future: APIFuture[T]) -> APIFuture[T]:
        """The same future; a failure is reported to the service."""
        if self.telemetry is not None:
            self.telemetry.watch(future.future())
        return future

    async def transport(self) -> Transport:
        """The open transport, with the service's configuration fetched."""
        self._check_open()
        return await self._transport.get()

    async def session(self) -> Session:
        """The session, created on first use.

        Raises:
            SessionLostError: the service has ended it.
        """
        self._check_open()
        session = await self._session.get()
        session.check_alive()
        return session

    async def post(self, request: ProtocolRequest, answer: type[M]) -> M:
        """Ask within the session for something that is answered at once."""
        await self.session()
        transport = await self.transport()
        reply = await transport.send(json_request(request))
        return parse(answer, reply.json(), request.type)

    async def ask(self, request: Request) -> Reply:
        """Send a request that needs no session."""
        transport = await self.transport()
        try:
            return await transport.send(request)
        except APIConnectionError:
            if not self.is_embedded or self._session.value is not None:
                raise
            return await (await self._rejoin(transport)).send(request)

    async def get(self, path: str, answer: type[M]) -> M:
        """GET something that needs no session; the validated answer."""
        return parse(answer, (await self.ask(Request(path, method="GET"))).json(), path)

    async def offers(self, name: str) -> bool:
        """Whether the service announces an extension; one without capabilities announces none."""
        try:
            return name in (await self._capabilities.get()).extensions
        except (NotFoundError, APIResponseValidationError):
            return False

    async def require_extension(self, name: str, *, hint: str) -> None:
        """Check that the service offers something beyond the protocol; asks it once.

        Raises:
            UnsupportedError: it does not.
        """
        if name not in (await self._capabilities.get()).extensions:
            raise UnsupportedError(
                f"{(await self.transport()).base_url} does not offer the extension {name!r}",
                hint=hint,
            )

    async def _get_capabilities(self) -> GetServerCapabilitiesResponse:
        return await self.get("get_server_capabilities", GetServerCapabilitiesResponse)

    async def submit(self, request: Request) -> UntypedAPIFuture:
        """Send within the session a request whose answer is the promise of a result."""
        await self.session()
        transport = await self.transport()
        return parse(UntypedAPIFuture, (await transport.send(request)).json(), request.path)

    async def result(
        self,
        request_id: str,
        kind: ResultKind,
        answer: type[M],
        observe: QueueObserver = lambda state, reason: None,
    ) -> M:
        """Wait for a JSON result; the validated model."""
        transport = await self.transport()
        reply = await await_result(transport, request_id, kind, observe)
        return parse(answer, reply.json(), kind.request_type)

    async def result_bytes(
        self,
        request_id: str,
        kind: ResultKind,
        observe: QueueObserver = lambda state, reason: None,
    ) -> bytes:
        """Wait for a protobuf result."""
        transport = await self.transport()
        reply = await await_result(transport, request_id, kind, observe, self._result_budget)
        return reply.content

    def give_up(self, request_id: str) -> None:
        """Tell a service that wants to know that nobody waits for a sample any more."""

        async def tell() -> None:
            try:
                if (await self._dynamic_config.get()).sample_cancel_enabled:
                    body = jsonio.dumps({"request_id": request_id}).encode()
                    await self.ask(Request("cancel_future", body, policy=_FEW_RETRIES))
            except TinsmithError as error:
                logger.debug("a sample could not be cancelled: %s", error)

        if not self._is_closed:
            task = asyncio.get_running_loop().create_task(tell())
            self._goodbyes.add(task)
            task.add_done_callback(self._goodbyes.discard)

    async def close(self, status: FinishStatus, detail: str | None) -> None:
        """Finish the session if there is one, fail what is under way, close the pools."""
        if self._is_closed:
            return
        self._is_closed = True
        _open_connections.discard(self)
        session = self._session.value
        transport = self._transport.value
        self._session.cancel()
        self._capabilities.cancel()
        self._dynamic_config.cancel()
        self._transport.cancel()
        try:
            if session is not None:
                await session.finish(status, detail)
        finally:
            if self.telemetry is not None:
                await self.telemetry.close()
            if transport is not None:
                await transport.close()

    def _check_open(self) -> None:
        if self._pid != os.getpid():
            raise ClientClosedError(
                "this ServiceClient belongs to the process that this one was forked from",
                hint="create a new one in each process",
            )
        if self._is_closed:
            raise ClientClosedError("ServiceClient is closed", hint="create a new one")

    async def _open(self) -> Transport:
        if not self.is_embedded:
            return await self._configured(self._make_transport(str(self.settings.base_url), None))
        service = await self._join_embedded()
        try:
            return await self._configured(self._make_transport(service.url, service))
        except APIConnectionError as error:
            # It may have ended for idleness between being found and being asked.
            logger.debug("the embedded service went away and is started again: %s", error)
            service = await self._join_embedded()
            return await self._configured(self._make_transport(service.url, service))

    async def _join_embedded(self) -> launcher.EmbeddedService:
        state_dir = paths.state_dir()
        return await run_in_daemon_thread(lambda: launcher.join_or_start(state_dir))

    async def _rejoin(self, transport: Transport) -> Transport:
        """The embedded service again: without a session it may have ended for idleness."""
        if self._transport.value is transport:
            self._transport.reset()
            await transport.close()
        return await self.transport()

    def _make_transport(self, url: str, service: launcher.EmbeddedService | None) -> Transport:
        settings = self.settings
        self._api_key = service.api_key if service else settings.api_key
        command = None if service else settings.credential_command
        return Transport(
            url,
            CommandKey(command) if command and not self._api_key else self._api_key,
            timeout_s=settings.timeout_s,
            policy=RetryPolicy(max_retries=settings.max_retries),
            headers=settings.headers,
            explain_failure=service.explain_failure if service else None,
        )

    async def _configured(self, transport: Transport) -> Transport:
        try:
            body = jsonio.dumps({"sdk_version": tinsmith.__version__}).encode()
            answer = (await transport.send(Request("client/config", body))).json()
            config = parse(ServiceConfig, answer, "client/config")
            if config.pjwt_auth_enabled:
                transport.credential = self._exchanged(transport, config)
        except BaseException as error:
            if isinstance(error, NotFoundError):
                error.hint = error.hint or "is base_url right? no service of the protocol is there"
            await transport.close()
            raise
        self.config = config
        return transport

    def _exchanged(self, transport: Transport, config: ServiceConfig) -> ExchangedToken:
        """Tokens that the service gives for the key."""
        credential = transport.credential
        is_token = self._api_key.startswith(JWT_PREFIX)
        if config.credential_default_source == "credential_cmd" and not is_token:
            command = self.settings.credential_command
            if command is None:
                raise UserError(
                    f"{transport.base_url} wants a key that a command prints",
                    field="TINSMITH_CREDENTIAL_CMD",
                    hint="set it to a command that prints a key of the service",
                )
            credential = CommandKey(command)
        # Few retries: the request that needs the token has its own.
        policy = RetryPolicy(max_retries=4)
        request = Request("auth/token", b"{}", credential=credential, policy=policy)

        async def exchange() -> str:
            reply = await transport.send(request)
            return parse(AuthTokenResponse, reply.json(), request.path).jwt

        return ExchangedToken(exchange)

    async def _get_dynamic_config(self) -> DynamicConfig:
        body = jsonio.dumps({"sdk_version": tinsmith.__version__}).encode()
        try:
            reply = await self.ask(Request("client/dynamic_config", body, policy=_FEW_RETRIES))
        except NotFoundError:  # an older service
            return DynamicConfig()
        return parse(DynamicConfig, reply.json(), "client/dynamic_config")

    async def _create_session(self) -> Session:
        settings = self.settings
        if settings.session_id is not None:
            transport = await self.transport()
            self._report_session(settings.session_id, is_owner=False)
            return Session(transport, settings.session_id, is_owner=False)
        request = CreateSessionRequest(
            tags=list(settings.tags),
            user_metadata=dict(settings.user_metadata or {}),
            sdk_version=tinsmith.__version__,
            project_id=settings.project_id,
            display_name=settings.display_name,
        )
        transport = await self.transport()
        try:
            reply = await transport.send(json_request(request))
        except APIConnectionError:
            if not self.is_embedded:
                raise
            transport = await self._rejoin(transport)
            reply = await transport.send(json_request(request))
        answer = parse(CreateSessionResponse, reply.json(), request.type)
        for level, message in (
            (logging.INFO, answer.info_message),
            (logging.WARNING, answer.warning_message),
            (logging.ERROR, answer.error_message),
        ):
            if message:
                logger.log(level, "the service says: %s", message)
        _finish_at_exit(self)
        self._report_session(answer.session_id, is_owner=True)
        return Session(transport, answer.session_id)

    def _report_session(self, session_id: str, *, is_owner: bool) -> None:
        if self.telemetry is not None:
            self.telemetry.begin_session(session_id, is_owner=is_owner)


def _telemetry_of(connection: Connection) -> Telemetry:
    """The reporter of a connection, which it does not keep alive."""
    alive = weakref.ref(connection)

    def transport() -> Transport | None:
        found = alive()
        return None if found is None else found._transport.value  # pyright: ignore[reportPrivateUsage] - own module

    def secrets() -> list[str]:
        found = alive()
        return [] if found is None else [found._api_key, *found.settings.headers.values()]  # pyright: ignore[reportPrivateUsage] - own module

    service = connection.settings.base_url or "embedded"
    telemetry = Telemetry(Spool(spool_dir(), service), transport, secrets)
    weakref.finalize(connection, telemetry.abandon).atexit = False
    return telemetry


class ProtocolRequest(Protocol):
    """A request model; its `type` is its endpoint."""

    @property
    def type(self) -> str: ...

    def model_dump_json(self, *, by_alias: bool, exclude_none: bool) -> str: ...


def json_request(request: ProtocolRequest) -> Request:
    """A request model as JSON; the protocol leaves out what has no value."""
    body = request.model_dump_json(by_alias=True, exclude_none=True)
    return Request(request.type, body.encode())


def parse(model: type[M], payload: object, what: str) -> M:
    """Validate an answer.

    Raises:
        APIResponseValidationError: it lacks something, or something has the wrong type.
    """
    try:
        return model.model_validate(payload)
    except pydantic.ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'answer'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise APIResponseValidationError(
            f"{what}: the service's answer breaks the protocol: {problems}",
            body=payload,
            hint="the service may speak another version of the protocol",
        ) from error


class _Once(Generic[T]):
    """A value made on first use and shared; a failure is not kept, the next use tries again."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self._task: asyncio.Task[T] | None = None

    @property
    def value(self) -> T | None:
        """The value if it is there."""
        task = self._task
        if task is None or not task.done() or task.cancelled() or task.exception():
            return None
        return task.result()

    async def get(self) -> T:
        if self._task is None or (self._task.done() and self.value is None):
            self._task = asyncio.get_running_loop().create_task(self._make())
        # Shielded: one caller's cancellation is not the others'.
        return await asyncio.shield(self._task)

    def reset(self) -> None:
        """Forget the value; the next use makes another."""
        self._task = None

    def cancel(self) -> None:
        """Stop making it."""
        if self._task is not None:
            self._task.cancel()


_open_connections: weakref.WeakSet[Connection] = weakref.WeakSet()
_is_exit_registered = False


def _finish_at_exit(connection: Connection) -> None:
    global _is_exit_registered  # noqa: PLW0603 - registered once, on first use, not at import
    _open_connections.add(connection)
    if not _is_exit_registered:
        _is_exit_registered = True
        atexit.register(_finish_all)


def _finish_all() -> None:
    """At the end of the process: tell the services, best effort and bounded."""
    connections = [c for c in _open_connections if c._pid == os.getpid()]  # pyright: ignore[reportPrivateUsage] - own module
    if not connections:
        return
    status = _exit_status()

    async def finish_all() -> None:
        await asyncio.gather(*(c.close(status, None) for c in connections), return_exceptions=True)

    try:
        loop_thread().start(finish_all).result(_EXIT_TIMEOUT_S)
    except (TimeoutError, APIError) as error:
        logger.debug("sessions were not finished at exit: %s", error)


def _exit_status() -> FinishStatus:
    """How the process ends: the interpreter keeps what it died of."""
    last: BaseException | None = getattr(sys, "last_value", None)
    if last is None:
        return "success"
    return "errored" if isinstance(last, Exception) else "interrupted"
