"""Which sampler snapshots are in an engine's memory.

Snapshots are immutable and addressed by content. Those with a directory can leave memory at any
time and come back from disk; those without (taken for a nameless save) live in memory only and
leave last. A snapshot that a sample is using never leaves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tinsmith.core.errors import ServerError, TinsmithError
from tinsmith.server.dispatcher import CallsEngine
from tinsmith.server.errors import GoneError
from tinsmith.server.messages import LoadSnapshot, ReleaseSnapshot

OnAcquired = Callable[[TinsmithError | None], None]


@dataclass(slots=True)
class _Resident:
    directory: Path | None
    num_users: int = 0
    num_holds: int = 0
    """Answers of the engine that named it. The engine may hold more by now: an equal snapshot whose
    answer is on its way must outlive the release of this one."""
    is_dropped: bool = False
    """It leaves with its last user."""


class SnapshotCache:
    """Snapshots resident in one engine, least recently used first."""

    def __init__(self, engine: CallsEngine, capacity: int) -> None:
        self._engine = engine
        self._capacity = capacity
        self._resident: OrderedDict[str, _Resident] = OrderedDict()
        self._loading: dict[str, list[OnAcquired]] = {}

    def __contains__(self, snapshot_id: str) -> bool:
        return snapshot_id in self._resident

    def add(self, snapshot_id: str, directory: Path | None) -> None:
        """Notes a snapshot that the engine now holds."""
        self._hold(snapshot_id, directory)
        self._trim()

    def acquire(self, snapshot_id: str, directory: Path | None, on_acquired: OnAcquired) -> None:
        """Pins a snapshot, loading it if need be; `on_acquired` gets None or the error.

        Every success is undone by one `release`.
        """
        resident = self._resident.get(snapshot_id)
        if resident is not None:
            resident.num_users += 1
            resident.is_dropped = False
            self._resident.move_to_end(snapshot_id)
            on_acquired(None)
        elif directory is None:
            on_acquired(_released_error())
        elif snapshot_id in self._loading:
            self._loading[snapshot_id].append(on_acquired)
        else:
            self._loading[snapshot_id] = [on_acquired]
            self._engine.call(
                LoadSnapshot(directory),
                lambda answer: self._loaded(snapshot_id, directory, answer),
            )

    def release(self, snapshot_id: str) -> None:
        """Undoes one `acquire`."""
        resident = self._resident[snapshot_id]
        resident.num_users -= 1
        if resident.is_dropped and resident.num_users == 0:
            self._evict(snapshot_id)
        self._trim()

    def drop(self, snapshot_id: str) -> None:
        """Frees a snapshot that nobody will ask for again, at once or after its last sample."""
        resident = self._resident.get(snapshot_id)
        if resident is None:
            return
        resident.is_dropped = True
        if resident.num_users == 0:
            self._evict(snapshot_id)

    def _loaded(self, snapshot_id: str, directory: Path, answer: object) -> None:
        waiters = self._loading.pop(snapshot_id)
        error = answer if isinstance(answer, TinsmithError) else None
        if isinstance(answer, str) and answer != snapshot_id:
            self._engine.call(ReleaseSnapshot(answer), lambda _: None)
            error = ServerError(
                f"sampler weights {directory.name!r} are not what was saved: "
                f"snapshot {answer!r} instead of {snapshot_id!r}",
                hint="save them again under another name",
            )
        if error is None:
            self._hold(snapshot_id, directory).num_users += len(waiters)
        for on_acquired in waiters:
            on_acquired(error)
        self._trim()

    def _hold(self, snapshot_id: str, directory: Path | None) -> _Resident:
        resident = self._resident.setdefault(snapshot_id, _Resident(directory))
        resident.directory = resident.directory or directory
        resident.is_dropped = False
        resident.num_holds += 1
        self._resident.move_to_end(snapshot_id)
        return resident

    def _trim(self) -> None:
        excess = len(self._resident) - self._capacity
        if excess <= 0:
            return
        idle = [name for name, resident in self._resident.items() if resident.num_users == 0]
        on_disk_first = sorted(idle, key=lambda name: self._resident[name].directory is None)
        for snapshot_id in on_disk_first[:excess]:
            self._evict(snapshot_id)

    def _evict(self, snapshot_id: str) -> None:
        num_holds = self._resident.pop(snapshot_id).num_holds
        self._engine.call(ReleaseSnapshot(snapshot_id, num_holds), lambda _: None)


def _released_error() -> GoneError:
    return GoneError(
        "sampling_session_id: its weights were never saved by name and are no longer in memory",
        field="sampling_session_id",
        hint="save weights for the sampler again, with a name to keep them",
    )
