"""Downloads over connections that break, from servers that can and cannot send a part."""

import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tinsmith.client import APIConnectionError, InternalServerError, NotFoundError
from tinsmith.client.archives import ArchiveLimits
from tinsmith.client.downloads import Progress, download_checkpoint
from tinsmith.client.retries import RetryPolicy
from tinsmith.core.errors import AlreadyExistsError, DataError

QUICK = RetryPolicy(max_retries=3, delay_base_s=0.001, delay_max_s=0.002)


def archive_of(**files: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@dataclass
class Answer:
    """How one request goes."""

    status: int = 200
    cut_after: int | None = None
    """Bytes of the body after which the connection breaks; None sends all."""
    content: bytes | None = None
    """Another body than the archive."""
    etag: str | None = None


@dataclass
class ArchiveServer:
    """Serves one archive; each request takes the next answer, the last one stays."""

    content: bytes
    has_ranges: bool = True
    etag: str | None = None
    says_length: bool = True
    answers: list[Answer] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if self.answers else Answer()


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    state = ArchiveServer(archive_of(a=b"A" * 5000, b=b"B" * 3000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = {name.lower(): value for name, value in self.headers.items()}
            state.requests.append(asked | {"path": self.path})
            answer = state.next_answer()
            body = state.content if answer.content is None else answer.content
            etag = answer.etag or state.etag
            start = 0
            status = answer.status
            is_part = state.has_ranges and "range" in asked and status == 200
            if is_part and asked.get("if-range", etag) == etag:
                start = int(asked["range"].removeprefix("bytes=").removesuffix("-"))
                status = 206
            self.send_response(status)
            if etag is not None:
                self.send_header("ETag", etag)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if state.says_length:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start : answer.cut_after])
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/archive"
    yield state
    http.shutdown()
    http.server_close()


def test_files_appear_with_their_content_and_progress_is_told(
    server: ArchiveServer, tmp_path: Path
) -> None:
    told: list[Progress] = []
    target = tmp_path / "made" / "here"
    done = download_checkpoint(lambda: server.url, target, progress=told.append)
    assert (target / "a").read_bytes() == b"A" * 5000
    assert (done.file_bytes, done.archive_bytes) == (8000, len(server.content))
    assert told[-1] == Progress(len(server.content), len(server.content))
    assert [path.name for path in target.parent.iterdir()] == ["here"]


def test_a_link_gets_no_key(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINSMITH_API_KEY", "secret")
    download_checkpoint(lambda: server.url, tmp_path / "x")
    assert "secret" not in str(server.requests)


@pytest.mark.parametrize("etag", [None, '"v1"'])
def test_a_broken_connection_is_taken_up_where_it_broke(
    server: ArchiveServer, tmp_path: Path, etag: str | None
) -> None:
    server.etag = etag
    server.answers = [Answer(cut_after=1000), Answer(cut_after=3000), Answer()]
    download_checkpoint(lambda: server.url, tmp_path / "x", policy=QUICK)
    assert [asked.get("range") for asked in server.requests] == [
        None,
        "bytes=1000-",
        "bytes=3000-",
    ]
    assert server.requests[1].get("if-range") == etag
    assert (tmp_path / "x" / "b").read_bytes() == b"B" * 3000


def test_a_server_without_ranges_sends_it_anew(server: ArchiveServer, tmp_path: Path) -> None:
    server.has_ranges = False
    server.answers = [Answer(cut_after=6000)]
    told: list[int] = []
    download_checkpoint(
        lambda: server.url,
        tmp_path / "x",
        policy=QUICK,
        progress=lambda now: told.append(now.num_bytes),
    )
    assert told != sorted(told)  # the count honestly begins again
    assert (tmp_path / "x" / "a").read_bytes() == b"A" * 5000


def test_an_archive_that_changed_meanwhile_is_fetched_anew(
    server: ArchiveServer, tmp_path: Path
) -> None:
    other = archive_of(a=b"C" * 5000, b=b"D" * 3000)
    later = Answer(content=other, etag='"v2"')
    server.answers = [Answer(cut_after=1000, etag='"v1"'), later, later]
    download_checkpoint(lambda: server.url, tmp_path / "x", policy=QUICK)
    assert (tmp_path / "x" / "a").read_bytes() == b"C" * 5000


def test_a_part_of_another_size_is_not_joined(server: ArchiveServer, tmp_path: Path) -> None:
    other = archive_of(a=b"C" * 9000)
    server.answers = [Answer(cut_after=1000), Answer(content=other), Answer(content=other)]
    download_checkpoint(lambda: server.url, tmp_path / "x", policy=QUICK)
    assert (tmp_path / "x" / "a").read_bytes() == b"C" * 9000


def test_a_link_that_expired_on_the_way_is_asked_for_again(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.answers = [Answer(cut_after=1000), Answer(status=410, content=b"{}"), Answer()]
    links = iter([server.url, f"{server.url}?second"])
    download_checkpoint(lambda: next(links), tmp_path / "x", policy=QUICK)
    assert [asked["path"] for asked in server.requests] == [
        "/archive",
        "/archive",
        "/archive?second",
    ]
    assert server.requests[2]["range"] == "bytes=1000-"


FAILURES = {
    "it breaks each time at the same place": ([Answer(cut_after=1000)] * 9, APIConnectionError),
    "the server is broken": ([Answer(status=500, content=b"")] * 9, InternalServerError),
    "there is no such thing": ([Answer(status=404, content=b"")], NotFoundError),
    "it is no archive": ([Answer(content=b"<html>" * 500)], DataError),
    "it is damaged": ([Answer(content=archive_of(a=b"A" * 5000)[:3000])], DataError),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_leaves_nothing_behind(server: ArchiveServer, tmp_path: Path, name: str) -> None:
    server.answers, error = list(FAILURES[name][0]), FAILURES[name][1]
    server.has_ranges = False
    with pytest.raises(error):
        download_checkpoint(lambda: server.url, tmp_path / "made" / "x", policy=QUICK)
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) <= QUICK.max_retries + 2


def test_a_failure_keeps_the_directory_that_was_to_be_replaced(
    server: ArchiveServer, tmp_path: Path
) -> None:
    target = tmp_path / "x"
    target.mkdir()
    (target / "old").write_text("kept")
    with pytest.raises(AlreadyExistsError):
        download_checkpoint(lambda: server.url, target)
    assert server.requests == []
    server.answers = [Answer(content=b"damaged")]
    with pytest.raises(DataError):
        download_checkpoint(lambda: server.url, target, overwrite=True)
    assert (target / "old").read_text() == "kept"
    download_checkpoint(lambda: server.url, target, overwrite=True)
    assert sorted(path.name for path in target.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("says_length", [True, False])
def test_what_is_larger_than_allowed_is_not_fetched(
    server: ArchiveServer, tmp_path: Path, says_length: bool
) -> None:
    server.says_length = says_length
    told: list[Progress] = []
    with pytest.raises(DataError, match="longer than 500 bytes"):
        download_checkpoint(
            lambda: server.url,
            tmp_path / "x",
            limits=ArchiveLimits(max_bytes=500),
            progress=told.append,
        )
    assert not any(now.num_bytes for now in told)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(server: ArchiveServer, tmp_path: Path) -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_checkpoint(lambda: server.url, tmp_path / "x", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
