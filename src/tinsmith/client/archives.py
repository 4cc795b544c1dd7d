"""Unpacks a tar that somebody else made into a directory of our own.

Nothing in the archive is trusted: a member lies inside the target and is a plain file or a
directory; no links, no devices, no name twice; numbers and sizes are capped before they are used;
permissions, owners and times are ours. Main names: `extract_archive`, `ArchiveLimits`.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import IO, Protocol, cast

from tinsmith.core.errors import DataError, TinsmithError

__all__ = ["ArchiveLimits", "extract_archive"]

CHUNK_BYTES = 2**18
"""Read at once at most; no honest header is longer."""
MAX_NAME_PARTS = 32
GZIP_MAGIC = b"\x1f\x8b"
_DAMAGE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,  # numbers and texts in headers
    LookupError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What is taken from an archive at most."""

    max_bytes: int = 100 * 2**30
    """Of the archive, and of the files in it together."""
    max_members: int = 10_000
    """Files and directories."""


class _Seekable(Protocol):
    """As much of a file as the reading of a tar needs."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...

    def tell(self) -> int: ...


def extract_archive(archive: IO[bytes], directory: Path, limits: ArchiveLimits) -> int:
    """Unpack a tar, plain or gzipped, into an empty directory; gives the bytes of its files.

    What was unpacked before a fault was found stays: unpack into a directory that is thrown away.

    Raises:
        DataError: it is damaged, or holds something that is not to be unpacked.
        OSError: the disk.
    """
    archive.seek(0)
    is_gzip = archive.read(2) == GZIP_MAGIC
    archive.seek(0)
    try:
        plain = gzip.GzipFile(fileobj=archive, mode="rb") if is_gzip else archive
        reader = _BoundedReader(plain)
        with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r:") as tar:
            num_bytes = _extract_members(tar, directory, limits)
            _check_end(tar, reader)
    except TinsmithError:
        raise
    except _DAMAGE as error:
        raise DataError(f"archive: is damaged ({error or type(error).__name__})") from error
    return num_bytes


def _extract_members(tar: tarfile.TarFile, directory: Path, limits: ArchiveLimits) -> int:
    num_bytes = num_files = 0
    for num_members, member in enumerate(tar, start=1):
        num_bytes += member.size
        if member.size < 0:
            raise DataError(f"archive: {member.name!r} claims {member.size:,} bytes")
        if num_members > limits.max_members:
            raise DataError(
                f"archive: holds more than {limits.max_members:,} files and directories"
            )
        if num_bytes > limits.max_bytes:
            raise DataError(
                f"archive: its files take more than {limits.max_bytes:,} bytes",
                hint="allow more if you trust the service",
            )
        place = _place_of(member, directory)
        try:
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            _write_file(tar, member, place)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise DataError(f"archive: {member.name!r} is there twice") from error
        num_files += 1
    if num_files == 0:
        raise DataError("archive: holds no files")
    return num_bytes


def _place_of(member: tarfile.TarInfo, directory: Path) -> Path:
    """Where a member goes.

    Raises:
        DataError: it is neither file nor directory, or would lie outside.
    """
    name = member.name
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise DataError(f"archive: {name!r} is a {_kind_of(member)}, only plain files are unpacked")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    is_outside = name.startswith("/") or ".." in parts
    # Backslashes, drives and streams mean something on Windows only, but an archive travels.
    is_strange = "\\" in name or any(PureWindowsPath(part).drive for part in parts)
    is_unprintable = not name.isprintable()
    if is_outside or is_strange or is_unprintable or len(parts) > MAX_NAME_PARTS:
        raise DataError(f"archive: {name[:200]!r} would lie outside the target or has a bad name")
    if not parts and not member.isdir():
        raise DataError("archive: a file has no name")
    return directory.joinpath(*parts)


def _write_file(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None, "a plain file has content"
    left = member.size
    place.parent.mkdir(parents=True, exist_ok=True)
    # Exclusive: a name that comes twice, also in other letter case, overwrites nothing.
    with place.open("xb") as file:
        while left > 0:
            chunk = content.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise DataError(f"archive: ends within {member.name!r}")
            file.write(chunk)
            left -= len(chunk)


def _check_end(tar: tarfile.TarFile, reader: _Seekable) -> None:
    """The module takes a header that it cannot read for the end; an end is a block of zeros."""
    reader.seek(tar.offset)
    if reader.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError("archive: is damaged or cut off")


def _kind_of(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "link"
    if member.isdev():
        return "device"
    return "sparse file" if member.issparse() else "thing of an unknown kind"


class _BoundedReader:
    """Refuses to read at once what a forged header asks for: it would be held in memory."""

    def __init__(self, inner: _Seekable) -> None:
        self._inner = inner

    def read(self, size: int) -> bytes:
        if not 0 <= size <= CHUNK_BYTES:
            raise DataError(f"archive: a header claims {size:,} bytes for itself")
        return self._inner.read(size)

    def seek(self, offset: int) -> int:
        return self._inner.seek(offset)

    def tell(self) -> int:
        return self._inner.tell()
