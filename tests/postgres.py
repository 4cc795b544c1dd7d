"""A PostgreSQL server for tests, started by the tests where its programs are installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM_DIRS = "/usr/lib/postgresql/*/bin"
REQUIRED = "TINSMITH_REQUIRE_POSTGRES"
"""Set by continuous integration: without PostgreSQL tests fail there, instead of being skipped."""


def find_programs() -> Path | None:
    """The directory of `initdb` and `postgres`, or None where they are not installed.

    The system's, else those of the package `pgserver`.
    """
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = sorted(Path("/").glob(f"{PROGRAM_DIRS.removeprefix('/')}/initdb"))
    if found:
        return found[-1].parent
    package = importlib.util.find_spec("pgserver")
    if package is None or package.origin is None:
        return None
    bundled = Path(package.origin).parent / "pginstall" / "bin"
    return bundled if (bundled / "initdb").exists() else None


def require_programs() -> Path:
    """The directory of the programs; skips the test, or fails it where `REQUIRED` is set."""
    programs = find_programs()
    if programs is not None:
        return programs
    reason = "PostgreSQL is not installed here: nothing was tested against it; pip install pgserver"
    if os.environ.get(REQUIRED, "0") not in ("", "0"):
        pytest.fail(f"{reason} ({REQUIRED} is set)")
    pytest.skip(reason)


class PostgresServer:
    """A server of the tests in a folder of its own.

    Attributes:
        url: Its address, as the user that may do everything.
    """

    def __init__(self, programs: Path, folder: str) -> None:
        self._programs, self._folder = programs, folder
        self._account = _account(folder)
        self._run(programs / "initdb", "-D", "data", "-U", "tinsmith", "-A", "trust", "--no-sync")
        port = _free_port()
        self._options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.url = f"postgresql://tinsmith@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        self._control("-l", "log", "-o", self._options, "start")

    def stop(self) -> None:
        """Stop as a power cut would: nothing is finished, nobody is told."""
        self._control("-m", "immediate", "stop")

    def restart(self) -> None:
        self.stop()
        self.start()

    def _control(self, *arguments: str) -> None:
        self._run(self._programs / "pg_ctl", "-D", "data", "-w", *arguments)

    def _run(self, program: Path, *arguments: str) -> None:
        # Not captured: the server would inherit the pipe and keep it open.
        subprocess.run(
            [program, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._account,
            cwd=self._folder,
        )


@contextlib.contextmanager
def running_server(programs: Path) -> Iterator[PostgresServer]:
    """A fresh server, which ends with the block."""
    # Not pytest's directory: the server's account must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="tinsmith-postgres-") as folder:
        server = PostgresServer(programs, folder)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                server.stop()


@contextlib.contextmanager
def running_postgres(programs: Path) -> Iterator[str]:
    """The address of a fresh server, which ends with the block."""
    with running_server(programs) as server:
        yield server.url


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
