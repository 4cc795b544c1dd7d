"""Starts the embedded service, or joins the one that runs already.

One service a state directory: a lock file orders those who want to start it, a ready file tells
everybody else where it is. It is a process of its own (`python -m tinsmith.server`), outlives the
process that started it, and ends by itself when nobody has used it for a while. Main names:
`join_or_start`, `EmbeddedService`, `check_engine_installed`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import httpx

from tinsmith.client.errors import APIConnectionError
from tinsmith.core import jsonio
from tinsmith.core.errors import ConfigError, missing_extra

logger = logging.getLogger(__name__)

IDLE_EXIT_S = 60
"""Seconds without a session after which the service ends."""
START_TIMEOUT_S = 120.0
"""A cold start imports torch, from a slow disk perhaps."""
ANSWER_TIMEOUT_S = 15.0
"""A live service that is busy still answers its health check within this."""
_MAX_LOG_BYTES = 5_000_000
_TAIL_LINES = 15
# -P: modules in the working directory must not shadow what the service imports.
_COMMAND = (sys.executable, "-P", "-m", "tinsmith.server")
_ENGINE_PACKAGES = ("torch", "transformers", "safetensors", "starlette", "uvicorn")


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddedService:
    """Where the embedded service is."""

    url: str
    api_key: str = dataclasses.field(repr=False)
    pid: int
    log_path: Path

    def explain_failure(self) -> str | None:
        """Why it cannot be reached, if it has died; None while its process lives."""
        if _is_alive(self.pid):
            return None
        return f"the embedded service (pid={self.pid}) has died; its log is {self.log_path}"


def check_engine_installed() -> None:
    """Fail early, and without importing them, when the engine's packages are missing.

    Raises:
        MissingExtraError: names the package and the line that installs it.
    """
    for package in _ENGINE_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "engine")


def key_of(url: str, state_dir: Path) -> str | None:
    """The API key of the embedded service of a state directory, if that is its address."""
    service = _read_ready(_Files(state_dir))
    return service.api_key if service is not None and service.url == url else None


def join_or_start(state_dir: Path, command: Sequence[str] = ()) -> EmbeddedService:
    """The embedded service of a state directory; blocks while it starts.

    Any number of processes may call this at the same moment and get the same service.

    Args:
        state_dir: where the service keeps its state; made if absent.
        command: starts the service, up to its flags; this installation's by default.

    Raises:
        ConfigError: the state directory cannot be made.
        APIConnectionError: it did not start (the message ends with the tail of its log), or its
            process lives and does not answer.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the embedded service did not start: its state directory {state_dir} cannot be made "
            f"({error.strerror})",
            field="state_dir",
            hint="set TINSMITH_HOME to a directory that you may write to",
        ) from error
    files = _Files(state_dir)
    service = _running(files)  # no lock where everything is well
    if service is not None:
        return service
    with _locked(files.lock):
        service = _running(files)  # another process was faster
        if service is not None:
            return service
        files.ready.unlink(missing_ok=True)
        return _started(files, command or _COMMAND)


@dataclasses.dataclass(frozen=True, slots=True)
class _Files:
    state_dir: Path

    @property
    def lock(self) -> Path:
        return self.state_dir / "embedded.lock"

    @property
    def ready(self) -> Path:
        return self.state_dir / "embedded.json"

    @property
    def log(self) -> Path:
        return self.state_dir / "embedded.log"


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock that the system releases when the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _running(files: _Files) -> EmbeddedService | None:
    """The service that the ready file names, if it is one and answers."""
    service = _read_ready(files)
    if service is None or not _is_alive(service.pid):
        return None
    deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        try:
            answer = httpx.get(
                f"{service.url}/api/v1/healthz",
                headers={"X-API-Key": service.api_key},
                timeout=ANSWER_TIMEOUT_S,
                trust_env=False,
                verify=False,  # plain HTTP on this machine: no certificates to load
            )
        except httpx.TimeoutException as error:
            if _read_ready(files) != service or not _is_alive(service.pid):
                return None  # it ended meanwhile
            if time.monotonic() < deadline_s:
                continue
            raise APIConnectionError(
                f"the embedded service (pid={service.pid}) does not answer at {service.url}",
                hint=f"look at {service.log_path}; `kill {service.pid}` lets a new one start",
            ) from error
        except httpx.HTTPError:
            return None  # nobody listens there: the pid belongs to something else by now
        return service if answer.status_code == 200 else None


def _read_ready(files: _Files) -> EmbeddedService | None:
    try:
        ready: Any = jsonio.loads(files.ready.read_text(encoding="utf-8"))
        return EmbeddedService(
            url=str(ready["url"]).rstrip("/"),
            api_key=str(ready.get("api_key") or ""),
            pid=int(ready["pid"]),
            log_path=files.log,
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s is not a ready file and is replaced", files.ready)
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it lives and is another user's
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """A dead child that its parent has not collected yet still takes signals."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # no /proc on this system, or gone just now
    return state.rpartition(")")[2].split()[:1] == ["Z"]


def _started(files: _Files, command: Sequence[str]) -> EmbeddedService:
    log_start = _rotate_log(files.log)
    with files.log.open("ab") as log:
        # Detached: Ctrl-C in the caller's terminal must not reach it.
        process = subprocess.Popen(
            [
                *command,
                *("--host", "127.0.0.1", "--port", "0"),
                *("--ready-file", str(files.ready)),
                *("--state-dir", str(files.state_dir)),
                *("--idle-exit-s", str(IDLE_EXIT_S)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    has_ended = threading.Event()

    def reap() -> None:
        process.wait()
        has_ended.set()

    threading.Thread(target=reap, name="tinsmith-embedded-reaper", daemon=True).start()
    logger.info("starting the embedded service, pid=%d, log in %s", process.pid, files.log)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    pause_s = 0.01
    while time.monotonic() < deadline_s:
        service = _read_ready(files)
        if service is not None:
            return service
        if has_ended.wait(pause_s):  # wakes at once when it dies
            raise _start_error(files, log_start, f"ended with status {process.returncode}")
        pause_s = min(pause_s * 1.5, 0.1)
    process.terminate()
    raise _start_error(files, log_start, f"was not ready after {START_TIMEOUT_S:g} s")


def _rotate_log(log: Path) -> int:
    """Keep the log bounded; where this start's output begins."""
    size = log.stat().st_size if log.exists() else 0
    if size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
        return 0
    return size


def _start_error(files: _Files, log_start: int, what: str) -> APIConnectionError:
    with files.log.open("rb") as log:
        log.seek(log_start)
        lines = log.read()[-20_000:].decode("utf-8", errors="replace").splitlines()
    tail = "\n".join(f"  | {line}" for line in lines[-_TAIL_LINES:]) or "  | (it wrote nothing)"
    return APIConnectionError(
        f"the embedded service did not start: it {what}; `tinsmith doctor` says what is missing "
        f"on this machine; the end of its log {files.log}:\n{tail}"
    )
