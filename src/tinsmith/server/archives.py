"""A checkpoint's files as one tar, made while it is sent, and the links under which it is fetched.

The tar's bytes follow from the files alone, so its length is known before it is made and a download
can go on where it broke off. A link is signed and expires; who has it needs no API key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import tarfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tinsmith.server.errors import GoneError, RequestError

CHUNK_BYTES = 2**20
LINK_LIFE_S = 3600.0
END = b"\0" * 1024
"""Two empty blocks, which every tar ends with."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes of the tar: given ones, or a file's."""

    content: bytes | Path
    size: int


class TarStream:
    """The files of a directory as a tar."""

    def __init__(self, directory: Path) -> None:
        self._parts: list[_Part] = []
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                self._add(file, file.relative_to(directory).as_posix())
        self._parts.append(_Part(END, len(END)))

    @property
    def size_bytes(self) -> int:
        """Length of the whole tar."""
        return sum(part.size for part in self._parts)

    async def read(self, start: int = 0) -> AsyncIterator[bytes]:
        """The tar's bytes from a position on; files are read on another thread."""
        for part in self._parts:
            if start >= part.size:
                start -= part.size
                continue
            if isinstance(part.content, bytes):
                yield part.content[start:]
            else:
                async for chunk in _read_file(part.content, start, part.size):
                    yield chunk
            start = 0

    def _add(self, file: Path, name: str) -> None:
        stat = file.stat()
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = stat.st_size, int(stat.st_mtime), 0o644
        header = member.tobuf(tarfile.PAX_FORMAT)
        padding = -stat.st_size % tarfile.BLOCKSIZE
        self._parts += [_Part(header, len(header)), _Part(file, stat.st_size)]
        self._parts.append(_Part(b"\0" * padding, padding))


async def _read_file(path: Path, start: int, size: int) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        file.seek(start)
        left = size - start
        while left:
            chunk = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))
            if not chunk:
                raise OSError(f"{path.name} became shorter while it was sent")
            left -= len(chunk)
            yield chunk
    finally:
        file.close()


class ArchiveLinks:
    """Makes and checks the signed links of one process."""

    def __init__(self, life_s: float = LINK_LIFE_S) -> None:
        self._secret = secrets.token_bytes(32)
        self._life_s = life_s

    def make(self, tinker_path: str, file: str = "") -> tuple[str, float]:
        """The query of a link to a checkpoint or to one file of it, and when it expires."""
        expires_at = int(time.time() + self._life_s)
        signature = self._sign(tinker_path, file, expires_at)
        query = f"path={quote(tinker_path, safe='')}&expires={expires_at}&signature={signature}"
        return f"{query}&file={quote(file, safe='')}" if file else query, expires_at

    def check(self, tinker_path: str, expires: int, signature: str, file: str = "") -> None:
        """Raises unless the link was made here, for this checkpoint and file, and still holds.

        Raises:
            RequestError: it was not made here.
            GoneError: it expired.
        """
        expected = self._sign(tinker_path, file, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise RequestError(
                "signature: does not belong to this link",
                field="signature",
                hint="ask for the archive again: links do not survive a restart of the service",
            )
        if time.time() > expires:
            raise GoneError(
                f"expires={expires}: the link has expired",
                field="expires",
                hint="ask for the archive again",
            )

    def _sign(self, tinker_path: str, file: str, expires: int) -> str:
        text = f"{expires} {quote(tinker_path)} {quote(file)}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
