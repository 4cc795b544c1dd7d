"""Points as PostgreSQL's binary COPY format, built and read by NumPy.

Every column is of fixed width and none is NULL, so a row is 62 bytes: a count of fields, then for
each its length and its big-endian value. Source: PostgreSQL 15 documentation, COPY, "Binary
Format".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["POINT_COLUMNS", "decode_array", "encode_points"]

POINT_COLUMNS = {
    "key_id": ">i4",
    "step": ">i8",
    "rank": ">i4",
    "attempt": ">i4",
    "ts_ns": ">i8",
    "value": ">f8",
}
"""Columns of points and their types on the wire."""

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_ARRAY_HEADER = 20


def encode_points(columns: Sequence[NDArray[np.generic]], seq: NDArray[np.int64]) -> bytes:
    """Return a whole COPY of `POINT_COLUMNS` and `seq`, a bigint."""
    types = {**POINT_COLUMNS, "seq": ">i8"}
    fields: list[tuple[str, str]] = [("num_fields", ">i2")]
    for name, kind in types.items():
        fields += [(f"{name}_length", ">i4"), (name, kind)]
    rows = np.zeros(len(seq), np.dtype(fields))
    rows["num_fields"] = len(types)
    for (name, kind), column in zip(types.items(), (*columns, seq), strict=True):
        rows[name] = column
        rows[f"{name}_length"] = np.dtype(kind).itemsize
    return _HEADER + rows.tobytes() + _TRAILER


def decode_array(data: bytes, kind: str) -> NDArray[np.generic]:
    """Return the elements of an array in its binary form (`array_send`), none of which is NULL.

    Args:
        data: Five numbers that head it, then each element's length and value.
        kind: Type of the elements, big-endian: ">i8".
    """
    row = np.dtype([("length", ">i4"), ("value", kind)])
    values = np.frombuffer(data, row, (len(data) - _ARRAY_HEADER) // row.itemsize, _ARRAY_HEADER)
    return values["value"].astype(np.dtype(kind).newbyteorder("="))
