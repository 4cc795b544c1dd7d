"""Fetches a checkpoint's files: its archive is streamed to disk, then unpacked.

A connection that breaks is taken up where it broke off if the server can send a part of a file;
else the file is fetched from its beginning. The directory appears under its name when everything
is in it, and not before; what a failure leaves is nothing. Main names: `download_checkpoint`,
`Progress`.
"""

from __future__ import annotations

import logging
import os
import random
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import httpx

import tinsmith
from tinsmith.client.archives import ArchiveLimits, extract_archive
from tinsmith.client.errors import APIConnectionError, APIResponseValidationError, status_error
from tinsmith.client.retries import RetryPolicy, is_retryable, retry_after_s
from tinsmith.client.transport import is_loopback
from tinsmith.core.errors import AlreadyExistsError, DataError, TinsmithError
from tinsmith.core.paths import atomic_directory

__all__ = ["Download", "Progress", "download_checkpoint"]

logger = logging.getLogger(__name__)

MAX_REDIRECTS = 5
GONE_STATUSES = frozenset({401, 403, 404, 410})
"""What a link that no longer holds is answered with."""


class Progress(NamedTuple):
    """How far a download is."""

    num_bytes: int
    """Fetched so far; smaller than before when the file had to be fetched anew."""
    total_bytes: int | None
    """Of the whole archive; None where the server does not say."""


class Download(NamedTuple):
    """What was fetched."""

    directory: Path
    archive_bytes: int
    file_bytes: int
    """Of the unpacked files."""


@dataclass
class _State:
    """The archive on its way to disk."""

    file: IO[bytes]
    num_bytes: int = 0
    total_bytes: int | None = None
    version: str | None = None
    """The server's word for these very bytes, an ETag or a date: another word, other bytes."""
    url: str | None = None
    furthest_bytes: int = 0
    """The most that was ever there: a file fetched anew from its beginning is no progress yet."""
    num_failures: int = 0
    """In a row, without progress between them."""


def download_checkpoint(
    find_link: Callable[[], str],
    directory: Path,
    *,
    overwrite: bool = False,
    limits: ArchiveLimits | None = None,
    policy: RetryPolicy | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Download:
    """Fetch an archive and unpack it into a new directory.

    Blocks; call it on a thread of its own where something else must go on.

    Args:
        find_link: asked for the archive's address, and again when it no longer holds.
        directory: where the files go; made here.
        overwrite: replace the directory if it is there.
        limits: what is taken at most.
        policy: retries after failures in a row; each byte that arrives starts the count anew.
        progress: called when bytes begin to come, and after every part of them.

    Raises:
        AlreadyExistsError: the directory exists and is not to be replaced.
        DataError: the archive is damaged, too large, or holds something that is not to be unpacked.
        APIError: it could not be fetched.
        OSError: the disk.
    """
    limits = limits or ArchiveLimits()
    if os.path.lexists(directory) and not overwrite:
        raise AlreadyExistsError(f"path={str(directory)!r}: exists already", field="path")
    made = _make_parents(directory.parent)
    try:
        # Has no name where the system can do that, so that not even a killed process leaves it.
        with tempfile.TemporaryFile(dir=directory.parent, prefix=".download-") as file:
            state = _State(file)
            _fetch(state, find_link, limits, policy or RetryPolicy(), progress)
            with atomic_directory(directory, overwrite=overwrite) as staging:
                file_bytes = extract_archive(file, staging, limits)
    except BaseException:
        _remove_empty(made)
        raise
    return Download(directory, state.num_bytes, file_bytes)


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder; gives those that were missing, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _fetch(
    state: _State,
    find_link: Callable[[], str],
    limits: ArchiveLimits,
    policy: RetryPolicy,
    progress: Callable[[Progress], None],
) -> None:
    failing_since_s = 0.0
    while True:
        state.url = state.url or find_link()
        try:
            with _make_client(state.url) as client:
                return _fetch_once(client, state, limits, progress)
        except httpx.InvalidURL as error:
            raise APIResponseValidationError(
                f"GET archive: {state.url!r} is no address: {error}"
            ) from error
        except (httpx.HTTPError, _TryAgain) as error:
            failure, retry_after = _failure_of(error, state)
        state.num_failures += 1
        if state.num_failures == 1:
            failing_since_s = time.monotonic()
        delay_s = policy.delay_s(
            state.num_failures, uniform=random.random(), retry_after=retry_after
        )
        waited_s = time.monotonic() - failing_since_s + delay_s
        if state.num_failures > policy.max_retries or waited_s > policy.max_elapsed_s:
            raise failure
        logger.info("the download broke off, trying again in %.1f s: %s", delay_s, failure)
        time.sleep(delay_s)


def _make_client(url: str) -> httpx.Client:
    return httpx.Client(
        # A link speaks for itself: no API key is sent, for it may lead to another server.
        headers={"User-Agent": f"tinsmith/{tinsmith.__version__}", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(60.0, connect=10.0),
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        trust_env=not is_loopback(url),
    )


def _fetch_once(
    client: httpx.Client,
    state: _State,
    limits: ArchiveLimits,
    progress: Callable[[Progress], None],
) -> None:
    """Send one request and write what comes of it."""
    assert state.url is not None
    headers: dict[str, str] = {}
    if state.num_bytes:
        headers["Range"] = f"bytes={state.num_bytes}-"
        if state.version is not None:
            headers["If-Range"] = state.version
    with client.stream("GET", state.url, headers=headers) as response:
        _check_status(response, state)
        _begin(response, state)
        _check_size(state.total_bytes or 0, limits)
        progress(Progress(state.num_bytes, state.total_bytes))
        for chunk in response.iter_raw():
            _check_size(state.num_bytes + len(chunk), limits)
            state.file.write(chunk)
            state.num_bytes += len(chunk)
            if state.num_bytes > state.furthest_bytes:
                state.furthest_bytes, state.num_failures = state.num_bytes, 0
            progress(Progress(state.num_bytes, state.total_bytes))
    if state.total_bytes is not None and state.num_bytes != state.total_bytes:
        raise _TryAgain(f"{state.num_bytes:,} of {state.total_bytes:,} bytes came")


def _check_status(response: httpx.Response, state: _State) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416 and state.num_bytes:  # the archive has become shorter: begin anew
        _restart(state)
        raise _TryAgain("the archive changed while it was fetched")
    content = response.read()
    failure = status_error(status, content, request="GET archive")
    if status in GONE_STATUSES and state.num_bytes:
        state.url = None
        raise _TryAgain(failure.message, failure=failure)
    if is_retryable(status, response.headers):
        raise _TryAgain(
            failure.message, failure=failure, retry_after=retry_after_s(response.headers)
        )
    raise failure


def _begin(response: httpx.Response, state: _State) -> None:
    """Find out where the bytes that follow belong."""
    version = _version_of(response)
    length = response.headers.get("content-length", "")
    if response.status_code == 206:
        start, total = _content_range(response)
        is_same_size = None in (total, state.total_bytes) or total == state.total_bytes
        if start != state.num_bytes or not is_same_size or version != state.version:
            _restart(state)
            raise _TryAgain("the server sent a part that does not belong to what came before")
        state.total_bytes = state.total_bytes or total
        return
    _restart(state)  # the server sends all of it, whatever was asked for
    state.version = version
    state.total_bytes = int(length) if length.isdecimal() else None


def _restart(state: _State) -> None:
    state.file.seek(0)
    state.file.truncate()
    state.num_bytes = 0
    state.total_bytes = None


def _version_of(response: httpx.Response) -> str | None:
    tag = response.headers.get("etag")
    if tag is not None and not tag.startswith("W/"):  # a weak one does not promise the same bytes
        return tag
    return response.headers.get("last-modified")


def _content_range(response: httpx.Response) -> tuple[int, int | None]:
    text = response.headers.get("content-range", "")
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", text.strip())
    if found is None:
        raise APIResponseValidationError(f"GET archive: content-range={text!r}: is none")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _check_size(num_bytes: int, limits: ArchiveLimits) -> None:
    if num_bytes > limits.max_bytes:
        raise DataError(
            f"archive: is longer than {limits.max_bytes:,} bytes",
            hint="allow more if you trust the service",
        )


class _TryAgain(Exception):
    """An answer that another request may better."""

    def __init__(
        self,
        reason: str,
        *,
        failure: TinsmithError | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.failure = failure
        self.retry_after = retry_after


def _failure_of(
    error: httpx.HTTPError | _TryAgain, state: _State
) -> tuple[TinsmithError, float | None]:
    """What is raised if nothing better comes, and the pause that the server asked for."""
    if isinstance(error, _TryAgain) and error.failure is not None:
        return error.failure, error.retry_after
    reason = str(error) or type(error).__name__
    message = f"GET archive: broke off after {state.num_bytes:,} bytes: {reason}"
    return APIConnectionError(message, hint="is the service still running?"), None
