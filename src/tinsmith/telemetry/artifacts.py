"""Digests of files and folders."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from tinsmith.core.errors import UserError

__all__ = ["Found", "digest_of"]


class Found(NamedTuple):
    """What an artifact is."""

    digest: str
    name: str
    uri: str
    num_bytes: int


def digest_of(path: str | Path, digest: str | None = None) -> Found:
    """Return name, address, size and SHA-256 of a file or folder.

    A folder's digest is that of the lines `<digest of the file>  <its path within>`, by path. With
    `digest` given, nothing is read, and an address (`s3://...`) is allowed, of size 0.

    Raises:
        UserError: an address comes without digest, or the digest is not one.
        OSError: something cannot be read.
    """
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
        raise UserError(f"digest={digest!r}: must be 64 hexadecimal digits", field="digest")
    if isinstance(path, str) and "://" in path:
        if digest is None:
            raise UserError("is an address: give its digest", field="digest")
        return Found(digest, path.rstrip("/").rpartition("/")[2], path, 0)
    path = Path(path).absolute()
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    num_bytes = sum(file.stat().st_size for file in files)
    if digest is None and path.is_dir():
        lines = [f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
        digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    return Found(digest or _sha256(path), path.name, path.as_uri(), num_bytes)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
