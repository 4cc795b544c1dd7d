"""Which process this is, and whether another one still lives."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

from tinsmith.telemetry.model import WriterId

__all__ = ["is_process_alive", "this_writer"]


def this_writer(rank: int) -> WriterId:
    """Return the identity of the calling process as the writer of a rank."""
    pid = os.getpid()
    return WriterId(rank, pid, host(), _start_of(pid))


@functools.cache
def host() -> str:
    """Return this machine's name."""
    return socket.gethostname()


def is_process_alive(writer: WriterId) -> bool | None:
    """Say whether a writer's process lives; None where that cannot be known from here.

    A process with the pid that started at another time is not it. One that has ended and waits
    to be collected by its parent is dead.
    """
    if writer.host != host():
        return None
    start = _start_of(writer.pid)
    if start and writer.process_start:
        return start == writer.process_start
    try:
        os.kill(writer.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not ours, but there
        return True
    return not (writer.process_start and not start)


def _start_of(pid: int) -> str:
    """Boot-relative start of a process from /proc; empty without one, or where it has ended."""
    try:
        # The command, in brackets, may hold blanks and brackets itself.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
