"""One run's SQLite file: connections, transactions, errors, forks.

A file has one connection for writing and one for reading in each process, each behind a lock; other
processes have their own, and SQLite's write-ahead log lets all of them in at once. A file is made
complete under another name and then renamed, so that nobody ever sees half of one.

SQLite keeps the locks of a process in memory, and a forked child would take its parent's for its
own. Therefore every file is closed just before a fork and opened again when it is next used, in the
parent and in the child (SQLite, "How To Corrupt An SQLite Database File", section 2.6).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator
from pathlib import Path

from tinsmith.core.ids import new_id
from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.stores.sqlite_schema import check_version, create_tables

__all__ = ["BUSY_TIMEOUT_S", "FILE_NAME", "RunFile", "create_run_folder"]

FILE_NAME = "run.sqlite"
BUSY_TIMEOUT_S = 30.0
"""How long a transaction waits for those of other processes."""
_FORK_WAIT_S = 5.0

_HINTS = {
    sqlite3.SQLITE_FULL: "free some space; the recorder tries again",
    sqlite3.SQLITE_IOERR: "check the disk's space, quota and state; the recorder tries again",
    sqlite3.SQLITE_BUSY: "another process holds the file for long; end it",
    sqlite3.SQLITE_LOCKED: "another process holds the file for long; end it",
    sqlite3.SQLITE_READONLY: "make the folder writable",
    sqlite3.SQLITE_CANTOPEN: "check that the folder exists and may be read and written",
    sqlite3.SQLITE_PERM: "make the folder writable",
    sqlite3.SQLITE_CORRUPT: "move the run's folder aside; `sqlite3 FILE .recover` may save it",
    sqlite3.SQLITE_NOTADB: "move the run's folder aside; something else wrote over the file",
}
_PERMANENT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_OF_THE_RECORD = (
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
)
"""What a record raises that no column takes: no time heals it."""

_open_files: weakref.WeakSet[RunFile] = weakref.WeakSet()
_held_over_fork: list[RunFile] = []


class RunFile:
    """A run's database in this process; thread-safe. Opens when it is first used."""

    def __init__(self, path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self.key_ids: dict[str, int] = {}
        """Ids of keys that are known to be committed."""
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._is_lost = False
        self.make_locks()
        _open_files.add(self)

    def make_locks(self) -> None:
        """Start with free locks, as in a child process where nobody is left to release them."""
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    @contextlib.contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """Run a write transaction: committed at the end of the block, rolled back if it raises."""
        with self._write_lock, self._translated():
            if self._writer is None:
                self._writer = self._connect()
            db = self._writer
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                self.key_ids.clear()  # may hold ids that are rolled back with the rest
                with contextlib.suppress(sqlite3.Error):
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """Run a block of reads that all see one state of the file."""
        with self._read_lock, self._translated():
            if self._reader is None:
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only = 1")
            db = self._reader
            db.execute("BEGIN")
            try:
                yield db
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def close(self) -> None:
        """Close both connections once their transactions end."""
        with self._write_lock, self._read_lock:
            self._disconnect()

    def hold(self, deadline: float) -> bool:
        """Wait for both transactions to end, close, and keep everybody out until `release`."""
        for count, lock in enumerate((self._write_lock, self._read_lock)):
            if not lock.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                if count:
                    self._write_lock.release()
                return False
        self._disconnect()
        return True

    def release(self) -> None:
        """Let everybody in again after `hold`."""
        self._write_lock.release()
        self._read_lock.release()

    def lose(self) -> None:
        """Give the file up in a child whose parent was in the middle of a transaction."""
        self._is_lost = True
        self.make_locks()

    def _connect(self) -> sqlite3.Connection:
        if self._is_lost:
            raise StoreError(
                f"file={str(self.path)!r}: was in use when this process was forked",
                field="file",
                hint="start processes with the spawn method, or attach to the run in the child",
                is_permanent=True,
            )
        # `mode=rw` opens, and never makes an empty file where a run was deleted.
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            # Survives the death of a process at any moment; a power cut may take the last commits.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 67108864")
            check_version(db, str(self.path))
        except BaseException:
            db.close()
            raise
        return db

    def _disconnect(self) -> None:
        for db in (self._writer, self._reader):
            if db is not None:
                with contextlib.suppress(sqlite3.Error):
                    db.close()
        self._writer = self._reader = None

    @contextlib.contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
            raise store_error(error, self.path) from error


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """Return the error of a store for one of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
    return StoreError(
        f"file={str(path)!r}: {error}",
        field="file",
        hint=_HINTS.get(code),
        is_permanent=code in _PERMANENT or isinstance(error, _OF_THE_RECORD),
    )


def create_run_folder(folder: Path) -> None:
    """Make the folder of a run with its empty file, unless another process is faster.

    Raises:
        StoreError: it cannot be made.
    """
    partial = folder.parent / f".{new_id()}.partial"
    try:
        partial.mkdir(parents=True)
        with contextlib.closing(sqlite3.connect(partial / FILE_NAME, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            create_tables(db)
        with contextlib.suppress(OSError):
            partial.rename(folder)
    except (sqlite3.Error, OSError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, sqlite3.Error):
            raise store_error(error, folder / FILE_NAME) from error
        raise StoreError(
            f"folder={str(folder)!r}: cannot be made: {error}",
            field="folder",
            hint="choose a folder that may be written with TINSMITH_HOME",
        ) from error
    if partial.exists():  # the name is taken: by another process that made the run just now
        shutil.rmtree(partial, ignore_errors=True)
        if not (folder / FILE_NAME).exists():
            raise StoreError(
                f"folder={str(folder)!r}: exists, and holds no run",
                field="folder",
                hint="move it out of the folder of runs",
                is_permanent=True,
            )


# ---------------------------------------------------------------------------------------- forks


def _before_fork() -> None:
    deadline = time.monotonic() + _FORK_WAIT_S
    _held_over_fork[:] = [file for file in list(_open_files) if file.hold(deadline)]


def _after_fork_in_parent() -> None:
    while _held_over_fork:
        _held_over_fork.pop().release()


def _after_fork_in_child() -> None:
    held = set(_held_over_fork)
    _held_over_fork.clear()
    for file in list(_open_files):
        if file in held:
            file.make_locks()
        else:
            file.lose()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
