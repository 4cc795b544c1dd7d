"""Identifiers: random ones for things that happen, hashes for things that are what they contain."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterable

__all__ = ["content_hash", "new_id", "new_uuid7"]

_HASH_CHARS = 32


def new_id(prefix: str = "") -> str:
    """Return a fresh random identifier: the prefix, as it is, and 32 hexadecimal digits."""
    return prefix + uuid.uuid4().hex


def new_uuid7() -> str:
    """Return a fresh UUIDv7 as text: ids made later sort after earlier ones.

    After the 48 bits of milliseconds come 12 bits of the fraction of the millisecond, then 62
    random bits.

    Source: RFC 9562, section 5.7 and method 3 of section 6.2.
    """
    milliseconds, rest_ns = divmod(time.time_ns(), 1_000_000)
    fraction = (rest_ns << 12) // 1_000_000
    random_bits = int.from_bytes(os.urandom(8)) & 0x3FFF_FFFF_FFFF_FFFF
    head = (milliseconds << 16) | 0x7000 | fraction
    return str(uuid.UUID(int=(head << 64) | 0x8000_0000_0000_0000 | random_bits))


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
