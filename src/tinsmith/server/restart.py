"""What outlives the process: taking it up at the start, and results of earlier processes.

A dead process's sessions go on, and so do its sampling sessions on checkpoints. Its models were in
memory: they are lost, and their requests fail with the checkpoint to resume from. Checkpoints on
disk and their rows are brought together both ways.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from functools import partial

from sqlalchemy.engine import Connection

from tinsmith.core.errors import ServerError
from tinsmith.server.access import current_key_id
from tinsmith.server.checkpoints import CheckpointPath, CheckpointRecord, CheckpointStore
from tinsmith.server.completions import CompletionFeeds
from tinsmith.server.config import ServerLimits
from tinsmith.server.futures import SAMPLE_TYPE, Outcome
from tinsmith.server.metadata import MetadataStore, queries
from tinsmith.server.sessions import SessionRegistry
from tinsmith.server.store import MemoryStore, SamplerRecord, SessionRecord, resume_hint

logger = logging.getLogger(__name__)


async def take_up(
    metadata: MetadataStore,
    store: MemoryStore,
    sessions: SessionRegistry,
    checkpoints: CheckpointStore,
    *,
    completions: CompletionFeeds,
    boot_id: str,
    living: Callable[[], Collection[str]],
    limits: ServerLimits,
) -> None:
    """Starts a boot and loads what earlier ones left into memory."""
    found = await asyncio.to_thread(lambda: list(checkpoints.scan()))
    await metadata.run(partial(reconcile, checkpoints=checkpoints, found=found))
    now_s = time.time()
    await metadata.run(
        partial(
            queries.take_over,
            boot_id=boot_id,
            living=living,
            now_s=now_s,
            limits=limits,
        )
    )
    since_s = now_s - limits.session_release_s
    left = await metadata.run(partial(queries.restored, boot_id=boot_id, since_s=since_s))
    loop_offset_s = asyncio.get_running_loop().time() - now_s
    for row in left.sessions:
        sessions.take_up(_session_record(row, loop_offset_s))
    store.lost_models |= {row["model_id"]: row["last_checkpoint"] for row in left.models}
    for row in left.samplers:
        store.samplers[row["sampler_id"]] = _sampler_record(row, checkpoints)
    for row in left.samples:
        size_bytes = row["num_bytes"] if row["media_type"] == SAMPLE_TYPE else None
        completions.inherit(row["owner_id"], row["request_id"], size_bytes)


def reconcile(
    connection: Connection,
    *,
    checkpoints: CheckpointStore,
    found: list[tuple[CheckpointRecord, int]],
) -> None:
    """Adds rows for checkpoints found on disk, removes rows whose directory is gone."""
    known = queries.known_checkpoints(connection)
    on_disk = {record.path for record, _ in found}
    new = [record.row(size) for record, size in found if record.path not in known]
    queries.insert_checkpoints(connection, new)
    gone = [
        path
        for path in known - on_disk
        if not checkpoints.directory(CheckpointPath.from_text(path)).exists()
    ]
    if gone:
        logger.warning("%d checkpoints are no longer on disk, for example %s", len(gone), gone[0])
        queries.remove_checkpoints(connection, gone)


class StoredResults:
    """Results in the metadata database."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata

    async def find(self, request_id: str) -> Outcome | None:
        """A stored result; a failure for work that died with its process; None if unknown."""
        return await self._metadata.run(
            partial(_find, request_id=request_id, key_id=current_key_id())
        )


def _find(connection: Connection, *, request_id: str, key_id: int | None) -> Outcome | None:
    stored = queries.stored_future(connection, request_id=request_id, now_s=time.time())
    if stored is None:
        return None
    session_id = (stored.owner_id or "").partition(":")[0]
    if key_id is not None and queries.session_key_id(connection, session_id) != key_id:
        return None
    if stored.payload is not None and stored.media_type is not None:
        return Outcome(bytes(stored.payload), stored.media_type)
    if queries.is_living(connection, boot_id=stored.boot_id):
        return None  # another process's, which answers for it
    owner_id = stored.owner_id or ""
    path = queries.last_checkpoint(connection, model_id=owner_id)
    is_sample = ":sample:" in owner_id
    error = ServerError(
        f"request_id={request_id!r}: the service was restarted before it finished",
        field="request_id",
        hint="sample again" if is_sample else resume_hint(path),
    )
    return Outcome.from_error(error)


def _session_record(row: queries.Row, loop_offset_s: float) -> SessionRecord:
    return SessionRecord(
        session_id=row["session_id"],
        last_seen_s=row["last_seen_at"] + loop_offset_s,
        tags=row["tags"],
        user_metadata=row["user_metadata"] or {},
        ended=row["ended"],
        details=row["details"],
        key_id=row["key_id"],
        created_at=row["created_at"],
        noted_at=row["last_seen_at"],
    )


def _sampler_record(row: queries.Row, checkpoints: CheckpointStore) -> SamplerRecord:
    path = row["model_path"]
    directory = None if path is None else checkpoints.directory(CheckpointPath.from_text(path))
    return SamplerRecord(
        sampler_id=row["sampler_id"],
        session_id=row["session_id"],
        base_model=row["base_model"],
        model_path=path,
        directory=directory,
        snapshot_id=row["snapshot_id"],
    )
