"""What can be done to a checkpoint after it was saved: publish, expire, copy, delete.

Checkpoints whose time is over are deleted by one timer, set for the next of them.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
import uuid
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tinsmith.core.errors import AlreadyExistsError, TinsmithError
from tinsmith.core.ids import new_id
from tinsmith.core.jsonio import dumps
from tinsmith.core.paths import atomic_directory
from tinsmith.server.checkpoints import (
    RECORD_FILE,
    CheckpointPath,
    CheckpointRecord,
    CheckpointStore,
)
from tinsmith.server.errors import ForbiddenError, MissingError, RequestError
from tinsmith.server.metadata import MetadataStore, listings
from tinsmith.server.metadata.listings import Viewer
from tinsmith.server.metadata.queries import Row
from tinsmith.types import CopyWeightsRequest

logger = logging.getLogger(__name__)

MAX_TTL_S = 10 * 365 * 86_400
MAX_TIMER_S = 86_400.0
COPIES = uuid.UUID("5f2f9b5e-9f8d-4c55-8e40-3a2c7d4c9a11")
"""Namespace of the runs that copies go to, so that a repeated request finds its first copy."""


def check_ttl(ttl_seconds: int | None) -> None:
    """Checks how long a checkpoint is to be kept.

    Raises:
        RequestError: it is out of bounds.
    """
    if ttl_seconds is not None and not 1 <= ttl_seconds <= MAX_TTL_S:
        raise RequestError(
            f"ttl_seconds={ttl_seconds}: must be 1..{MAX_TTL_S} (ten years)",
            field="ttl_seconds",
            hint="leave it out to keep the checkpoint",
        )


def expiry_of(ttl_seconds: int | None) -> float | None:
    """When a checkpoint saved now expires, in seconds since 1970."""
    check_ttl(ttl_seconds)
    return None if ttl_seconds is None else time.time() + ttl_seconds


class CheckpointAdmin:
    """Changes to saved checkpoints. Lives on the event loop."""

    def __init__(self, metadata: MetadataStore, checkpoints: CheckpointStore) -> None:
        self._metadata = metadata
        self._checkpoints = checkpoints
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = float("inf")
        self._reaping: asyncio.Task[None] | None = None

    async def find(self, path: CheckpointPath, viewer: Viewer, *, field: str) -> Row:
        """A checkpoint that the viewer may use: an own one, or with `is_wide` a published one.

        Raises:
            MissingError: there is none.
            ForbiddenError: it is published, and only its owner may do this.
        """
        row = await self._metadata.run(partial(listings.checkpoint, path=str(path)))
        is_own = row is not None and viewer.key_id in (None, row["key_id"])
        if row is None or not (is_own or row["is_public"]):
            raise MissingError(
                f"{field}={str(path)!r}: no such checkpoint",
                field=field,
                hint="list the run's checkpoints to see which there are",
            )
        if not is_own and not viewer.is_wide:
            raise ForbiddenError(
                f"{field}={str(path)!r}: belongs to somebody else, who has published it",
                field=field,
                hint="copy the weights and change the copy",
            )
        return row

    def set_public(self, path: CheckpointPath, *, is_public: bool) -> None:
        """Lets others load a checkpoint, or no longer; the same again changes nothing."""
        self._metadata.change("checkpoints", str(path), {"is_public": is_public})

    async def set_ttl(self, path: CheckpointPath, ttl_seconds: int | None) -> None:
        """Sets how long from now a checkpoint is kept; None keeps it for good."""
        expires_at = expiry_of(ttl_seconds)
        await asyncio.to_thread(self._checkpoints.set_expiry, path, expires_at)
        self._metadata.change("checkpoints", str(path), {"expires_at": expires_at})
        if expires_at is not None:
            self.expect(expires_at)

    async def delete(self, path: CheckpointPath) -> None:
        """Removes a checkpoint from disk and from the lists."""
        self._metadata.remove("checkpoints", str(path))
        await asyncio.to_thread(_remove, self._checkpoints.directory(path))

    async def copy(
        self,
        body: CopyWeightsRequest,
        source: CheckpointPath,
        *,
        request_key: str,
        key_id: int | None,
    ) -> str:
        """Copies a checkpoint to a run of its own; the same request again finds its copy.

        Returns:
            Path of the copy.
        """
        expires_at = expiry_of(body.ttl_seconds)
        if body.session_id is not None or body.model_seq_id is not None:
            raise RequestError(
                f"session_id={body.session_id!r}: must be left out; a copy gets a run of its own",
                field="session_id",
                hint="give destination_project_id",
            )
        if not body.destination_project_id:
            raise RequestError("destination_project_id: missing", field="destination_project_id")
        record = self._checkpoints.read(source, field="source_path")
        session_id = str(uuid.uuid5(COPIES, f"{key_id} {request_key}"))
        target = CheckpointPath(f"{session_id}:train:0", source.kind, source.name)
        now_s = round(time.time(), 6)
        copied = record.model_copy(
            update={
                "path": str(target),
                "model_id": target.run_id,
                "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "key_id": key_id,
                "expires_at": expires_at,
            }
        )
        try:
            await asyncio.to_thread(_copy, self._checkpoints, source, target, copied)
        except AlreadyExistsError:
            return str(target)
        details = {"project_id": body.destination_project_id, "copy_of": str(source)}
        self._write_copy(copied, session_id, now_s, details)
        self._metadata.put("checkpoints", copied.row(self._checkpoints.size_bytes(target)))
        if expires_at is not None:
            self.expect(expires_at)
        return str(target)

    def expect(self, expires_at: float) -> None:
        """Makes sure that the timer goes off by then."""
        if expires_at < self._due_s:
            self._due_s = expires_at
            if self._timer is not None:
                self._timer.cancel()
            delay_s = min(max(expires_at - time.time(), 0.0), MAX_TIMER_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._go_off)

    async def reap(self) -> None:
        """Deletes what has expired and sets the timer for what comes next."""
        self._due_s = float("inf")
        expired = partial(listings.expired_checkpoints, now_s=time.time())
        try:
            for path in await self._metadata.run(expired):
                logger.info("%s has expired", path)
                await self.delete(CheckpointPath.from_text(path))
            following = await self._metadata.run(listings.next_expiry)
        except TinsmithError as exc:
            logger.error("expired checkpoints could not be looked up: %s", exc)
            following = time.time() + 60.0
        if following is not None:
            self.expect(following)

    async def close(self) -> None:
        """Stops the timer and lets a deletion end."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reaping is not None:
            await asyncio.gather(self._reaping, return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()

    def _go_off(self) -> None:
        self._timer = None
        self._reaping = asyncio.get_running_loop().create_task(self.reap())

    def _write_copy(
        self, record: CheckpointRecord, session_id: str, now_s: float, details: dict[str, str]
    ) -> None:
        session = {"session_id": session_id, "boot_id": "", "key_id": record.key_id}
        session |= {"created_at": now_s, "last_seen_at": now_s, "ended_at": now_s}
        session |= {"ended": "made for a copy", "tags": [], "user_metadata": None}
        self._metadata.put("sessions", {**session, "details": details})
        model = {"model_id": record.model_id, "session_id": session_id, "boot_id": ""}
        model |= {"key_id": record.key_id, "base_model": record.base_model}
        model |= {"lora_config": record.lora_config.model_dump(mode="json")}
        model |= {"user_metadata": None, "created_at": now_s, "last_request_at": now_s}
        self._metadata.put("models", {**model, "state": "unloaded"})


def _copy(
    checkpoints: CheckpointStore,
    source: CheckpointPath,
    target: CheckpointPath,
    record: CheckpointRecord,
) -> None:
    with atomic_directory(checkpoints.directory(target)) as staging:
        shutil.copytree(checkpoints.directory(source), staging, dirs_exist_ok=True)
        text = dumps(record.model_dump(mode="json", exclude_none=True))
        (staging / RECORD_FILE).write_text(text, encoding="utf-8")


def _remove(directory: Path) -> None:
    """Takes the name away first, so that no half of a checkpoint is ever found under it."""
    doomed = directory.with_name(f".{new_id()[:8]}.deleted")
    try:
        directory.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)
