"""A PostgreSQL server for tests, started by the tests where its programs are installed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROGRAM_DIRS = "/usr/lib/postgresql/*/bin"


def find_programs() -> Path | None:
    """The directory of `initdb` and `postgres`, or None where they are not installed."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = sorted(Path("/").glob(f"{PROGRAM_DIRS.removeprefix('/')}/initdb"))
    return found[-1].parent if found else None


@contextlib.contextmanager
def running_postgres(programs: Path) -> Iterator[str]:
    """The address of a fresh server, which ends with the block."""
    # Not pytest's directory: the server's account must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="tinsmith-postgres-") as folder:
        account = _account(folder)
        data, log = Path(folder, "data"), Path(folder, "log")
        initdb = [programs / "initdb", "-D", data, "-U", "tinsmith", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, user=account, cwd=folder)
        port = _free_port()
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        start = [programs / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, user=account, cwd=folder)
        try:
            yield f"postgresql://tinsmith@127.0.0.1:{port}/postgres"
        finally:
            stop = [programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"]
            subprocess.run(stop, check=False, capture_output=True, user=account, cwd=folder)


def _account(folder: str) -> int:
    """Who runs the server: this user, or `postgres` for root, whom PostgreSQL refuses."""
    if os.geteuid() != 0:
        return os.geteuid()
    entry = pwd.getpwnam("postgres")
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return entry.pw_uid


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
