"""Training runs and sessions as people look at them afterwards: from rows to the wire's shapes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import cast

from sqlalchemy.engine import Connection

from tinsmith.server.checkpoints import CheckpointPath
from tinsmith.server.errors import MissingError
from tinsmith.server.metadata import MetadataStore, listings
from tinsmith.server.metadata.listings import Viewer
from tinsmith.server.metadata.queries import Row
from tinsmith.types import (
    Checkpoint,
    CheckpointsListResponse,
    CheckpointType,
    ClientSessionFinished,
    Cursor,
    GetSessionResponse,
    ListSessionsResponse,
    SessionActive,
    SessionSearchCursor,
    SessionSearchRequest,
    SessionSearchResponse,
    SessionStatusQuery,
    SessionSummary,
    TrainingRun,
    TrainingRunsResponse,
)

OPERATOR = "operator"
"""Owner of what was made without an API key of one's own."""

_TYPES: dict[str, CheckpointType] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}


class RunCatalog:
    """Answers about runs, their checkpoints, and sessions."""

    def __init__(self, metadata: MetadataStore, *, session_timeout_s: float) -> None:
        self._metadata = metadata
        self._session_timeout_s = session_timeout_s

    async def training_runs(
        self, viewer: Viewer, *, limit: int, offset: int, project_id: str | None = None
    ) -> TrainingRunsResponse:
        """A page of training runs, the one last worked on first."""
        page = await self._metadata.run(
            partial(
                listings.training_runs,
                viewer=viewer,
                limit=limit,
                offset=offset,
                project_id=project_id,
            )
        )
        return TrainingRunsResponse(
            training_runs=[_training_run(row) for row in page.rows],
            cursor=Cursor(offset=offset, limit=limit, total_count=page.total_count),
        )

    async def training_run(self, viewer: Viewer, model_id: str) -> TrainingRun:
        """One training run.

        Raises:
            MissingError: there is none that the viewer may see.
        """
        find = partial(listings.training_run, viewer=viewer, model_id=model_id)
        row = await self._metadata.run(find)
        if row is None:
            raise MissingError(
                f"training_run_id={model_id!r}: unknown",
                field="training_run_id",
                hint="list the training runs to see which there are",
            )
        return _training_run(row)

    async def run_checkpoints(self, viewer: Viewer, model_id: str) -> CheckpointsListResponse:
        """All checkpoints of a run.

        Raises:
            MissingError: there is no such run.
        """
        find = partial(listings.run_checkpoints, viewer=viewer, model_id=model_id)
        rows = await self._metadata.run(find)
        if not rows:
            await self.training_run(viewer._replace(is_wide=True), model_id)
        return CheckpointsListResponse(checkpoints=[checkpoint_of(row) for row in rows])

    async def checkpoints(
        self, viewer: Viewer, *, limit: int, offset: int
    ) -> CheckpointsListResponse:
        """A page of checkpoints, the newest first."""
        page = await self._metadata.run(
            partial(listings.all_checkpoints, viewer=viewer, limit=limit, offset=offset)
        )
        return CheckpointsListResponse(
            checkpoints=[checkpoint_of(row) for row in page.rows],
            cursor=Cursor(offset=offset, limit=limit, total_count=page.total_count),
        )

    async def sessions(self, viewer: Viewer, *, limit: int, offset: int) -> ListSessionsResponse:
        """A page of session ids, the newest first."""
        find = partial(listings.session_ids, viewer=viewer, limit=limit, offset=offset)
        return ListSessionsResponse(sessions=await self._metadata.run(find))

    async def session(self, viewer: Viewer, session_id: str) -> GetSessionResponse:
        """What a session made.

        Raises:
            MissingError: there is none that the viewer may see.
        """
        find = partial(listings.session, viewer=viewer, session_id=session_id)
        row = await self._metadata.run(find)
        if row is None:
            raise MissingError(f"session_id={session_id!r}: unknown", field="session_id")
        return GetSessionResponse(
            training_run_ids=row["training_run_ids"],
            sampler_ids=row["sampler_ids"],
            user_metadata=row["user_metadata"],
            display_name=row["details"].get("display_name"),
        )

    async def set_project(self, session_id: str, project_id: str) -> None:
        """Moves a session to a project; the session has to be there."""
        await self._metadata.run(
            partial(listings.set_project, session_id=session_id, project_id=project_id)
        )

    async def search(self, viewer: Viewer, request: SessionSearchRequest) -> SessionSearchResponse:
        """Sessions that match, the newest first."""
        ask = partial(_search, viewer=viewer, request=request, timeout_s=self._session_timeout_s)
        return await self._metadata.run(ask)


def checkpoint_of(row: Row) -> Checkpoint:
    """A checkpoint as the wire has it."""
    path = CheckpointPath.from_text(row["path"])
    return Checkpoint(
        checkpoint_id=f"{path.kind}/{path.name}",
        checkpoint_type=_TYPES[path.kind],
        time=_time(row["created_at"]),
        tinker_path=row["path"],
        size_bytes=row["size_bytes"],
        public=row["is_public"],
        user_metadata=row["user_metadata"],
        expires_at=None if row["expires_at"] is None else _time(row["expires_at"]),
    )


def owner_name(key_id: int | None) -> str:
    """How the owner of something is called."""
    return OPERATOR if key_id is None else f"key:{key_id}"


def _training_run(row: Row) -> TrainingRun:
    last, last_sampler = row["last_checkpoint"], row["last_sampler_checkpoint"]
    return TrainingRun(
        training_run_id=row["model_id"],
        base_model=row["base_model"],
        model_owner=owner_name(row["key_id"]),
        is_lora=True,
        corrupted=row["state"] == "lost",
        lora_rank=row["lora_config"]["rank"],
        last_request_time=_time(row["last_request_at"]),
        last_checkpoint=None if last is None else checkpoint_of(last),
        last_sampler_checkpoint=None if last_sampler is None else checkpoint_of(last_sampler),
        user_metadata=row["user_metadata"],
    )


def _search(
    connection: Connection, *, viewer: Viewer, request: SessionSearchRequest, timeout_s: float
) -> SessionSearchResponse:
    cursor = request.cursor
    before = None
    if cursor is not None:
        before = (cursor.last_created_at.timestamp(), cursor.last_session_id)
    matching = _matching(connection, viewer, request, before, live_since_s=time.time() - timeout_s)
    found = list(islice(matching, request.limit + 1))
    rows = found[: request.limit]
    totals = listings.checkpoint_totals(connection, session_ids=[r["session_id"] for r in rows])
    summaries = [_summary(row, *totals.get(row["session_id"], (0, 0))) for row in rows]
    more = None
    if len(found) > len(rows):
        more = SessionSearchCursor(
            last_created_at=summaries[-1].created_at, last_session_id=summaries[-1].session_id
        )
    return SessionSearchResponse(sessions=summaries, next_cursor=more)


def _matching(
    connection: Connection,
    viewer: Viewer,
    request: SessionSearchRequest,
    before: tuple[float, str] | None,
    *,
    live_since_s: float,
) -> Iterator[Row]:
    owners = request.owner.owner_urns if request.owner.type == "user" else None
    name = (request.display_name or "").casefold()
    for row in listings.sessions_before(connection, viewer=viewer, before=before):
        row["status"] = _status(row, live_since_s=live_since_s)
        details, told = row["details"], row["user_metadata"] or {}
        if request.session_id is not None or name:
            is_named = bool(name) and name in str(details.get("display_name", "")).casefold()
            if not is_named and row["session_id"] != request.session_id:
                continue
        if request.project_ids is not None and details.get("project_id") not in request.project_ids:
            continue
        if any(key not in told or told[key] != v for key, v in request.user_metadata.items()):
            continue
        if owners is not None and owner_name(row["key_id"]) not in owners:
            continue
        statuses = request.statuses
        if statuses is None or any(_has_status(row, query) for query in statuses):
            yield row


def _status(row: Row, *, live_since_s: float) -> SessionActive | ClientSessionFinished | None:
    if row["ended"] is None:
        return SessionActive() if row["last_seen_at"] >= live_since_s else None
    if not row["ended"].startswith("finished ("):
        return None
    reason = row["ended"].removeprefix("finished (").rstrip(")")
    return ClientSessionFinished.model_validate(
        {"reason": {"type": reason}, "detail": row["details"].get("finish_detail")}
    )


def _has_status(row: Row, query: SessionStatusQuery) -> bool:
    status = row["status"]
    if status is None or status.type != query.type:
        return False
    if query.type == "client_finished" and query.reasons is not None:
        return cast("ClientSessionFinished", status).reason.type in query.reasons
    return True


def _summary(row: Row, num_checkpoints: int, num_bytes: int) -> SessionSummary:
    return SessionSummary(
        session_id=row["session_id"],
        created_at=_time(row["created_at"]),
        owner=owner_name(row["key_id"]),
        project_id=row["details"].get("project_id", ""),
        status=row["status"],
        checkpoints_count=num_checkpoints,
        display_name=row["details"].get("display_name"),
        user_metadata=row["user_metadata"],
        checkpoint_storage_bytes=num_bytes,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
