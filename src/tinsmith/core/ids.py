"""Identifiers: fresh ones, and ones that name content."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable

__all__ = ["content_hash", "new_id"]


def new_id(prefix: str = "") -> str:
    """A fresh random id: `prefix` and 32 hexadecimal digits."""
    return f"{prefix}{uuid.uuid4().hex}"


def content_hash(content: bytes | bytearray | memoryview | Iterable[bytes | memoryview]) -> str:
    """The first 32 hexadecimal digits of the SHA-256 of `content` (pieces are joined)."""
    digest = hashlib.sha256()
    pieces = [content] if isinstance(content, bytes | bytearray | memoryview) else content
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()[:32]
