"""A throwaway service on this machine, to be restarted at will."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from tinsmith.core.errors import ServerError

__all__ = ["LocalService"]

API_KEY = "tml-conformance"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


class LocalService:
    """`python -m tinsmith.server` with a state directory of its own, ended with the block."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tinsmith-conformance-")
        self._ready_file = Path(self._folder.name) / "ready.json"
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.api_key = API_KEY

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def restart(self) -> None:
        """Stop the service and start it on the same state and the same port."""
        self._stop()
        self._start()

    def _start(self) -> None:
        state_dir, log_file = (Path(self._folder.name) / name for name in ("state", "log"))
        command = [sys.executable, "-P", "-m", "tinsmith.server", "--port", str(self._port)]
        command += ["--state-dir", str(state_dir), "--ready-file", str(self._ready_file)]
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--api-key", API_KEY], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._ready_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise ServerError(f"the service did not start:\n{log_file.read_text()[-2000:]}")
            time.sleep(0.05)
        self.url = str(json.loads(self._ready_file.read_text())["url"])
        self._port = int(self.url.rpartition(":")[2])

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._ready_file.unlink(missing_ok=True)
