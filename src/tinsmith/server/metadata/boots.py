"""Boots: one for each process of the service that used a state directory.

A boot holds a locked file for as long as it lives, and the system lets go of the lock however it
ends. So the next one can tell what died from what another process is still working on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class BootLock:
    """The mark of a living process of the service."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        """Takes the lock; `release` gives it back."""
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"{boot_id}.lock"
        self._descriptor = _locked(self._path)
        while not self._path.exists():  # another process cleaned up between its making and locking
            os.close(self._descriptor)
            self._descriptor = _locked(self._path)

    def living(self) -> set[str]:
        """Boot ids of the living processes, this one included; the others' files are removed."""
        alive = {self._path.stem}
        for path in self._path.parent.glob("*.lock"):
            if path != self._path and _is_held(path):
                alive.add(path.stem)
        return alive

    def release(self) -> None:
        """Ends the boot."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return False
    finally:
        os.close(descriptor)
