import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.unit.client.recording_server import Reply, recording_server
from tinsmith.client import launcher
from tinsmith.client.errors import APIConnectionError
from tinsmith.client.launcher import EmbeddedService, check_engine_installed, join_or_start
from tinsmith.core.errors import ConfigError, MissingExtraError

# Stands in for the service: listens, answers the health check, says where it is.
SERVICE = """
import argparse, http.server, json, os, pathlib, sys
parser = argparse.ArgumentParser()
for flag in ("host", "port", "ready-file", "state-dir", "idle-exit-s"):
    parser.add_argument("--" + flag)
options = parser.parse_args()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
ready = pathlib.Path(options.ready_file)
partial = ready.with_suffix(".partial")
url = f"http://127.0.0.1:{server.server_port}"
partial.write_text(json.dumps({"url": url, "pid": os.getpid(), "api_key": "k"}))
partial.replace(ready)
print("serving", flush=True)
server.serve_forever()
"""
FAKE = (sys.executable, "-c", SERVICE)

JOIN = """
import sys, pathlib
from tinsmith.client.launcher import join_or_start
print(join_or_start(pathlib.Path(sys.argv[1]), (sys.executable, "-c", sys.argv[2])).pid)
"""


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    yield folder
    ready = folder / "embedded.json"
    if ready.exists():
        pid = json.loads(ready.read_text()).get("pid")
        if pid and pid != os.getpid():
            with_suppressed_kill(pid)


def with_suppressed_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_ready(state_dir: Path, **content: object) -> None:
    state_dir.mkdir(parents=True, exist_ok=True)
    (state_dir / "embedded.json").write_text(json.dumps(content))


def test_the_first_call_starts_the_service_and_later_ones_join_it(state_dir: Path) -> None:
    first = join_or_start(state_dir, FAKE)
    second = join_or_start(state_dir, FAKE)
    assert first == second
    assert first.api_key == "k"
    assert httpx.get(first.url).status_code == 200
    assert "serving" in (state_dir / "embedded.log").read_text()


def test_threads_that_start_at_the_same_moment_get_one_service(state_dir: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        services = list(pool.map(lambda _: join_or_start(state_dir, FAKE), range(6)))
    assert len({service.pid for service in services}) == 1


def test_processes_that_start_at_the_same_moment_get_one_service(state_dir: Path) -> None:
    command = [sys.executable, "-c", JOIN, str(state_dir), SERVICE]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    joiners = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    pids = {joiner.communicate(timeout=60)[0].strip() for joiner in joiners}
    assert len(pids) == 1
    assert (state_dir / "embedded.log").read_text().count("serving") == 1
    # It outlives those who started it.
    assert join_or_start(state_dir, FAKE).pid == int(pids.pop())


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"url": "http://127.0.0.1:1"}', '{"url": 1, "pid": "x"}', "null"]
)
def test_a_broken_ready_file_is_replaced(state_dir: Path, content: str) -> None:
    state_dir.mkdir()
    (state_dir / "embedded.json").write_text(content)
    assert join_or_start(state_dir, FAKE).api_key == "k"


def test_the_ready_file_of_a_dead_process_is_replaced(state_dir: Path) -> None:
    with recording_server() as server:  # somebody else answers at its address by now
        write_ready(state_dir, url=server.url, pid=dead_pid(), api_key="old")
        assert join_or_start(state_dir, FAKE).api_key == "k"


def test_the_ready_file_of_a_process_that_is_no_service_is_replaced(state_dir: Path) -> None:
    write_ready(state_dir, url="http://127.0.0.1:9", pid=os.getpid(), api_key="old")
    assert join_or_start(state_dir, FAKE).api_key == "k"


def test_a_killed_service_is_replaced(state_dir: Path) -> None:
    first = join_or_start(state_dir, FAKE)
    assert first.explain_failure() is None
    os.kill(first.pid, signal.SIGKILL)
    deadline_s = time.monotonic() + 5
    while first.explain_failure() is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert f"pid={first.pid}) has died" in (first.explain_failure() or "")
    assert join_or_start(state_dir, FAKE).pid != first.pid


def test_a_live_service_that_is_busy_is_waited_for(state_dir: Path) -> None:
    with recording_server() as server:
        server.script("healthz", Reply(body={}, delay_s=0.3))
        write_ready(state_dir, url=server.url, pid=os.getpid(), api_key="mine")
        assert join_or_start(state_dir, FAKE).url == server.url


def test_a_live_service_that_never_answers_is_reported_not_doubled(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "ANSWER_TIMEOUT_S", 0.2)
    with recording_server() as server:
        server.script("healthz", *[Reply(delay_s=1.0)] * 5)
        write_ready(state_dir, url=server.url, pid=os.getpid(), api_key="mine")
        with pytest.raises(APIConnectionError, match=f"pid={os.getpid()}\\) does not answer"):
            join_or_start(state_dir, FAKE)


def test_an_early_death_shows_the_end_of_the_log(state_dir: Path) -> None:
    state_dir.mkdir()
    (state_dir / "embedded.log").write_text("an older start\n")
    dying = (sys.executable, "-c", "import sys; print('no space left'); sys.exit(3)")
    with pytest.raises(APIConnectionError) as caught:
        join_or_start(state_dir, dying)
    text = str(caught.value)
    assert "ended with status 3" in text
    assert text.endswith(f"{state_dir / 'embedded.log'}:\n  | no space left")
    assert "an older start" not in text
    # The lock is free again.
    assert join_or_start(state_dir, FAKE).api_key == "k"


def test_a_service_that_never_gets_ready_is_ended(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "START_TIMEOUT_S", 0.3)
    with pytest.raises(APIConnectionError, match=r"was not ready after 0.3 s"):
        join_or_start(state_dir, (sys.executable, "-c", "import time; time.sleep(60)"))


def test_a_long_log_is_set_aside(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_MAX_LOG_BYTES", 10)
    state_dir.mkdir()
    (state_dir / "embedded.log").write_text("a log that has grown\n")
    join_or_start(state_dir, FAKE)
    assert (state_dir / "embedded.log.1").read_text() == "a log that has grown\n"


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher, "_ENGINE_PACKAGES", ("json", "no_such_package"))
    with pytest.raises(
        MissingExtraError, match=r'no_such_package.*pip install "tinsmith\[engine\]"'
    ):
        check_engine_installed()


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(EmbeddedService("http://x", "secret", 1, Path("log")))


def test_a_state_directory_that_cannot_be_made_is_named_with_the_cure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(ConfigError, match=r"did not start: its state directory .*TINSMITH_HOME"):
        join_or_start(file / "state")
