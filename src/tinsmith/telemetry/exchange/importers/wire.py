"""The wire format of Protocol Buffers and the record logs around it, as far as importers need them.

A message is read into its fields without a schema, so that no other package is needed to read the
files of a tool.

Source: the Protocol Buffers encoding guide; TensorFlow's TFRecord format; LevelDB's log format.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from tinsmith.core.errors import DataError

__all__ = [
    "Fields",
    "as_signed",
    "double",
    "fields_of",
    "float32",
    "message_of",
    "number_in",
    "read_tfrecords",
    "read_wandb_log",
]

Fields: TypeAlias = dict[int, list[int | bytes]]
"""Values by field number, in order; varints and fixed numbers as unsigned bits."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields_of(message: bytes) -> Fields:
    """Read a message.

    Raises:
        ValueError: not a message.
    """
    found: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind == _BYTES:
            length, at = _varint(message, at)
            value, at = _slice(message, at, length)
        elif kind in (_FIXED32, _FIXED64):
            raw, at = _slice(message, at, 4 if kind == _FIXED32 else 8)
            value = int.from_bytes(raw, "little")
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number that does not end")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _slice(message: bytes, at: int, length: int) -> tuple[bytes, int]:
    if at + length > len(message):
        raise ValueError("a field that is longer than its message")
    return message[at : at + length], at + length


def message_of(value: int | bytes) -> bytes:
    """Return a field that is a message or a text.

    Raises:
        ValueError: it is a number.
    """
    if isinstance(value, int):
        raise ValueError("a number where a message or a text must be")
    return value


def number_in(fields: Fields, number: int) -> int:
    """Return the last value of a numeric field, 0 where it is absent.

    Raises:
        ValueError: it is a message or a text.
    """
    value = fields.get(number, [0])[-1]
    if isinstance(value, bytes):
        raise ValueError(f"field {number} holds bytes; must be a number")
    return value


def as_signed(bits: int) -> int:
    """Read a varint as int64."""
    return bits - (1 << 64) if bits >= 1 << 63 else bits


def double(bits: int) -> float:
    """Read 64 bits as a float."""
    return struct.unpack("<d", bits.to_bytes(8, "little"))[0]


def float32(bits: int) -> float:
    """Read 32 bits as a float."""
    return struct.unpack("<f", bits.to_bytes(4, "little"))[0]


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """Read the records of a TFRecord file; one that is cut off at the end is left out.

    Raises:
        DataError: a checksum does not fit.
    """
    with path.open("rb") as file:
        while len(header := file.read(12)) == 12:
            length, check = struct.unpack("<QI", header)
            _require(_masked_crc32c(header[:8]) == check, path, file.tell() - 12)
            body = file.read(length + 4)
            if len(body) < length + 4:
                return
            (check,) = struct.unpack("<I", body[length:])
            _require(_masked_crc32c(body[:length]) == check, path, file.tell() - length - 16)
            yield body[:length]


_BLOCK = 32_768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_wandb_log(path: Path) -> Iterator[bytes]:
    """Read the records of a W&B transaction log; one that is cut off at the end is left out.

    Raises:
        DataError: not such a file, or a checksum does not fit.
    """
    content = path.read_bytes()
    if content[:4] != b":W&B":
        raise DataError(f"{path}: not a W&B log: it must begin with ':W&B'", file=str(path))
    at, parts = 7, b""
    while at + 7 <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left  # the rest of a block that is too short for a header is filler
            continue
        check, length, kind = struct.unpack_from("<IHB", content, at)
        data = content[at + 7 : at + 7 + length]
        if len(data) < length or (kind == 0 and length == 0):
            return
        crc = zlib.crc32(data, zlib.crc32(bytes([kind])))
        _require(crc == check and kind in (_FULL, _FIRST, _MIDDLE, _LAST), path, at)
        parts = data if kind in (_FULL, _FIRST) else parts + data
        if kind in (_FULL, _LAST):
            yield parts
        at += 7 + length


def _require(condition: bool, path: Path, at: int) -> None:
    if not condition:
        raise DataError(
            f"{path}: the record at byte {at} is damaged: its checksum does not fit",
            hint="copy the file again from where it was written",
            file=str(path),
        )


def _crc32c_table() -> tuple[int, ...]:
    table: list[int] = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def _masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
