"""Reports that the service has not taken yet, on disk: a file for each parcel, until it is taken.

Many processes share the directory. Each writer has a name of its own and a lock that ends with it;
parcels whose writer has ended are adopted by whoever gets that lock. So nothing is lost when a
process is killed, and nothing is sent by two; only a crash between sending and deleting sends a
parcel again, with the same event ids. Main names: `Spool`, `Parcel`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, cast

from tinsmith.core import jsonio, paths
from tinsmith.core.ids import content_hash, new_id

logger = logging.getLogger(__name__)

MAX_BYTES = 8 * 2**20
"""Of all files together; beyond it nothing more is written."""
MAX_FILES = 2_000
MAX_AGE_S = 30 * 86_400.0
"""Older parcels are thrown away: their service is gone."""
MAX_PARCEL_BYTES = 2**20
_SERVICE_CHARS = 16
_PRIVATE_FILE, _PRIVATE_DIR = 0o600, 0o700


@dataclasses.dataclass(slots=True)
class Parcel:
    """Events of one client, and what its service has to know of it."""

    header: Mapping[str, str]
    events: list[Mapping[str, Any]]
    path: Path | None = None
    """None where it could not be written: it is then lost with the process."""


def spool_dir() -> Path:
    """Where unsent reports lie."""
    return paths.state_dir() / "unsent-reports"


class Spool:
    """One writer's part of the directory. Its methods block on the disk; none raises OSError."""

    def __init__(self, directory: Path, service: str) -> None:
        """Write nothing yet.

        Args:
            directory: shared by all processes of this user.
            service: whom the reports are for; no other service gets them.
        """
        self._directory = directory
        self._service = content_hash(service.encode())[:_SERVICE_CHARS]
        self._owner = ""
        self._lock: _Lock | None = None
        self._num_written = 0

    def write(self, parcel: Parcel) -> None:
        """Write a parcel down and note its path, if there is room and the disk takes it."""
        lines = [jsonio.dumps(parcel.header), *map(jsonio.dumps, parcel.events)]
        content = ("\n".join(lines) + "\n").encode()
        try:
            self._be_owner()
            if not self._has_room(len(content)):
                logger.warning("%s is full: reports are kept in memory only", self._directory)
                return
            self._num_written += 1
            path = self._directory / f"{self._service}-{self._owner}-{self._num_written:06d}.jsonl"
            paths.atomic_write_bytes(path, content, mode=_PRIVATE_FILE)
        except OSError as error:
            logger.debug("a report cannot be written down: %s", error)
            return
        parcel.path = path

    def remove(self, parcel: Parcel) -> None:
        """Forget a parcel that was taken."""
        if parcel.path is not None:
            with contextlib.suppress(OSError):
                parcel.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def adopt(self) -> Generator[list[Parcel]]:
        """Parcels of writers that have ended; nobody else has them while the block runs."""
        locks: list[_Lock] = []
        parcels: list[Parcel] = []
        try:
            for owner, files in self._files_by_owner().items():
                lock = None if owner == self._owner else self._try_lock(owner)
                if lock is not None:
                    locks.append(lock)
                    parcels += [parcel for file in files if (parcel := _read(file)) is not None]
            yield parcels
        finally:
            left = self._files_by_owner()
            for lock in locks:
                lock.release(remove=lock.owner not in left)

    def close(self) -> None:
        """Let others adopt what is left."""
        if self._lock is not None:
            self._lock.release(remove=self._owner not in self._files_by_owner())
            self._lock = None
            self._owner = ""

    def _be_owner(self) -> None:
        while self._lock is None:
            self._directory.mkdir(mode=_PRIVATE_DIR, parents=True, exist_ok=True)
            self._owner = new_id()
            self._lock = self._try_lock(self._owner)

    def _try_lock(self, owner: str) -> _Lock | None:
        path = self._directory / f"{self._service}-{owner}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, _PRIVATE_FILE)
        except OSError:
            if owner == self._owner:
                raise
            return None
        lock = _Lock(owner, path, descriptor)
        return lock if lock.acquire() else None

    def _files_by_owner(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in sorted(self._directory.glob(f"{self._service}-*.jsonl")):
            found.setdefault(path.name.split("-")[1], []).append(path)
        return found

    def _has_room(self, num_bytes: int) -> bool:
        num_files = 0
        for path in self._directory.glob("*.jsonl"):
            try:
                status = path.stat()
                if time.time() - status.st_mtime > MAX_AGE_S:
                    path.unlink()
                    continue
            except OSError:
                continue  # gone just now
            num_files += 1
            num_bytes += status.st_size
        return num_bytes <= MAX_BYTES and num_files < MAX_FILES


class _Lock:
    """A lock on a file, which ends with the process at the latest."""

    def __init__(self, owner: str, path: Path, descriptor: int) -> None:
        self.owner = owner
        self._path = path
        self._descriptor = descriptor

    def acquire(self) -> bool:
        """Take the lock if nobody has it and the file is still the one that has the name."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._descriptor).st_ino == self._path.stat().st_ino:
                return True
        except OSError:
            pass
        os.close(self._descriptor)
        return False

    def release(self, *, remove: bool) -> None:
        if remove:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _read(path: Path) -> Parcel | None:
    """A parcel as it was written; lines that are damaged are left out."""
    try:
        if time.time() - path.stat().st_mtime > MAX_AGE_S:
            path.unlink()
            return None
        lines = path.read_bytes()[:MAX_PARCEL_BYTES].splitlines()
    except OSError:
        return None
    objects = [value for line in lines if (value := _parsed(line)) is not None]
    header = next((value for value in objects if "process_uuid" in value), None)
    if header is None:  # its first line is damaged
        header = {"session_id": f"sessionless-{new_id()}", "process_uuid": path.name.split("-")[1]}
    events = [value for value in objects if "event_id" in value]
    texts = {str(name): str(value) for name, value in header.items()}
    return Parcel(texts, [*events], path)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = jsonio.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
