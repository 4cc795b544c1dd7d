"""Tensors and plain arrays to and from their protobuf form: little-endian bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinsmith.core.errors import DataError
from tinsmith.types.proto import tinsmith_pb2 as pb
from tinsmith.types.tensor_data import TensorData, TensorDtype

__all__ = [
    "DTYPE_CODES",
    "array_bytes",
    "array_from_bytes",
    "decode_tensor",
    "encode_tensor",
    "typed_array",
]

DTYPE_CODES: dict[TensorDtype, pb.DType] = {
    "float32": pb.DTYPE_FLOAT32,
    "int64": pb.DTYPE_INT64,
}
_INT64 = np.dtype("<i8")


def array_bytes(array: npt.ArrayLike, dtype: str) -> bytes:
    """Return the values as little-endian bytes of a dtype such as "<i4"."""
    return np.asarray(array, np.dtype(dtype)).tobytes()


def array_from_bytes(data: bytes, dtype: str, *, field: str) -> npt.NDArray[Any]:
    """Return the values of little-endian bytes, read-only and without a copy.

    Raises:
        DataError: the bytes are not a whole number of values.
    """
    kind = np.dtype(dtype)
    if len(data) % kind.itemsize:
        raise DataError(
            f"{field}: {len(data)} bytes, not a whole number of {kind.name}s", field=field
        )
    return np.frombuffer(data, kind)


def typed_array(
    data: bytes, dtype_code: int, *, field: str
) -> tuple[npt.NDArray[Any], TensorDtype]:
    """Return the values under a DType code, with int32 and bfloat16 widened.

    Raises:
        DataError: an unknown code, or bytes that do not fit it.
    """
    if dtype_code == pb.DTYPE_FLOAT32:
        return array_from_bytes(data, "<f4", field=field), "float32"
    if dtype_code == pb.DTYPE_INT64:
        return array_from_bytes(data, "<i8", field=field), "int64"
    if dtype_code == pb.DTYPE_INT32:
        return array_from_bytes(data, "<i4", field=field).astype(np.int64), "int64"
    if dtype_code == pb.DTYPE_BFLOAT16:
        # A bfloat16 is the upper half of a float32.
        upper = array_from_bytes(data, "<u2", field=field).astype("<u4")
        return (upper << 16).view("<f4"), "float32"
    raise DataError(f"{field}: dtype code {dtype_code} is unknown", field=field)


def encode_tensor(message: pb.Tensor, tensor: TensorData) -> None:
    """Write a tensor into a message."""
    value_dtype = "<i8" if tensor.dtype == "int64" else "<f4"
    message.dtype = DTYPE_CODES[tensor.dtype]
    message.shape.extend(tensor.shape)
    values = array_bytes(tensor.values, value_dtype)
    crow, col = tensor.sparse_crow_indices, tensor.sparse_col_indices
    if crow is None or col is None:
        message.dense = values
        return
    message.sparse_csr.values = values
    message.sparse_csr.crow_indices = array_bytes(crow, "<i8")
    message.sparse_csr.col_indices = array_bytes(col, "<i8")


def decode_tensor(message: pb.Tensor, *, field: str) -> TensorData:
    """Read a tensor; one without a shape is flat.

    Raises:
        DataError: bytes, dtype, shape and indices that contradict each other; `field` is named.
    """
    try:
        shape = list(message.shape)
        if message.WhichOneof("encoding") != "sparse_csr":
            values, dtype = typed_array(message.dense, message.dtype, field="data")
            return TensorData(values, dtype, shape or None)
        sparse = message.sparse_csr
        values, dtype = typed_array(sparse.values, message.dtype, field="data")
        return TensorData(
            values,
            dtype,
            shape,
            array_from_bytes(sparse.crow_indices, "<i8", field="sparse_crow_indices"),
            array_from_bytes(sparse.col_indices, "<i8", field="sparse_col_indices"),
        )
    except DataError as error:
        raise DataError(f"{field}: {error.message}", field=field, hint=error.hint) from error
