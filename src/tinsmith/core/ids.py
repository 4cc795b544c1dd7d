"""Identifiers: random ones for things that happen, hashes for things that are what they contain."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable

__all__ = ["content_hash", "new_id"]

_HASH_CHARS = 32


def new_id(prefix: str = "") -> str:
    """Return a fresh random identifier: the prefix, as it is, and 32 hexadecimal digits."""
    return prefix + uuid.uuid4().hex


def content_hash(
    content: bytes | bytearray | memoryview | Iterable[bytes | bytearray | memoryview],
) -> str:
    """Return the first 32 hexadecimal digits of the SHA-256 of bytes, or of parts in order.

    Example:
        >>> content_hash(b"ab") == content_hash([b"a", b"b"])
        True
    """
    digest = hashlib.sha256()
    parts = [content] if isinstance(content, (bytes, bytearray, memoryview)) else content
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:_HASH_CHARS]
